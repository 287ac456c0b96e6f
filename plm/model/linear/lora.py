"""A projection with a low-rank adapter: the weight stays as it is, two thin matrices learn.

Paper: Hu et al., LoRA (arXiv:2106.09685)
Departs: nothing; alpha / rank is the factor on the update, as there.
Cost: 2·r·(in + out) FLOPs a token more, forward; r·(in + out) parameters to train.
"""

import math

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from plm.errors import ConfigError

ROLES = ("q", "k", "v", "kv_a", "kv_b", "o", "up", "down", "gate")
"""Of the projections that can get an adapter."""


class LoRA(nn.Linear):
    """W x + alpha / rank · B A x.

    Args:
        in_features, out_features: sizes of the last axis before and after.
        rank: of the update.
        alpha: its factor, times the rank.
    """

    starts_fresh = ("lora_a", "lora_b")
    """Weights that a checkpoint without adapters does not have."""

    exports = ()

    def __init__(self, in_features: int, out_features: int, rank: int, alpha: float) -> None:
        super().__init__(in_features, out_features, bias=False)
        self.weight.requires_grad_(False)
        self.lora_a = nn.Parameter(torch.zeros(rank, in_features))
        self.lora_b = nn.Parameter(torch.zeros(out_features, rank))
        self.scale = alpha / rank
        self.init_weights(torch.Generator().manual_seed(0), in_features**-0.5)

    def init_weights(self, generator: torch.Generator, std: float) -> None:
        """A as torch's projections begin, B at zero: at first the adapter changes nothing."""
        bound = math.sqrt(3 / self.in_features)
        with torch.no_grad():
            if not self.weight.is_meta:
                self.weight.copy_(torch.randn(self.weight.shape, generator=generator) * std)
                drawn = torch.rand(self.lora_a.shape, generator=generator) * 2 - 1
                self.lora_a.copy_(drawn * bound)
            self.lora_b.zero_()

    def forward(self, x: Tensor) -> Tensor:
        """[..., in_features] -> [..., out_features]."""
        update = F.linear(F.linear(x, self.lora_a), self.lora_b)
        return F.linear(x, self.weight) + self.scale * update

    def parameter_settings(self) -> dict[str, dict[str, bool]]:
        """What the optimizer is asked for: to leave the weight out, and decay nothing."""
        kept = {name: {"decay": False} for name in self.starts_fresh}
        return {"weight": {"frozen": True}, **kept}

    def flops_per_token(self, seq_len: int) -> float:
        """Forward FLOPs a token."""
        return 2.0 * sum(parameter.numel() for parameter in self.parameters())

    def merged(self) -> nn.Linear:
        """One plain projection that does the same."""
        like = {"device": self.weight.device, "dtype": self.weight.dtype}
        plain = nn.Linear(self.in_features, self.out_features, bias=False, **like)
        with torch.no_grad():
            update = self.lora_b.double() @ self.lora_a.double()
            plain.weight.copy_(self.weight.double() + self.scale * update)
        return plain


def lora(
    in_features: int,
    out_features: int,
    role: str,
    *,
    rank: int,
    alpha: float,
    roles: tuple[str, ...] | list[str] | None = None,
) -> nn.Module:
    """One projection of a model, with an adapter where its role is among those that get one.

    Own code, since peft wraps a finished model and renames its weights: then a checkpoint, a shard
    and a resumed run would know two kinds of names.

    Args:
        in_features, out_features: sizes of the last axis before and after.
        role: one of ROLES, or head.
        rank, alpha: of the adapter; alpha / rank is the factor on its update.
        roles: those that get one; None: all but the head, whose weight is read past its module.
    Raises:
        ConfigError: a setting that cannot be.
    """
    if isinstance(rank, bool) or not isinstance(rank, int) or rank < 1:
        raise ConfigError(f"model.linear.rank={rank} of lora is not a whole number of 1 or more")
    if isinstance(alpha, bool) or not isinstance(alpha, int | float) or not alpha > 0:
        raise ConfigError(f"model.linear.alpha={alpha} of lora is not a number above 0")
    if roles is not None:
        wrong = [roles] if isinstance(roles, str) else [r for r in roles if r not in ROLES]
        if wrong or not roles:
            raise ConfigError(
                f"model.linear.roles={roles} of lora must be a list of some of {', '.join(ROLES)}"
            )
    if role not in (ROLES if roles is None else roles):
        return nn.Linear(in_features, out_features, bias=False)
    return LoRA(in_features, out_features, rank, alpha)


lora.merges_to = {"_target_": "plm.model.linear.dense.dense", "_partial_": True}
"""The choice that a model has once its adapters are merged."""
