"""A value model: what a rollout will have earned from each of its tokens on, for PPO.

Paper: Schulman et al., Proximal policy optimization algorithms (arXiv:1707.06347)
Paper: Yuan et al., What's behind PPO's collapse in long-CoT? (arXiv:2503.01491): values fitted
    before the policy moves, and a λ of their own
Departs: it begins as a copy of the policy with a fresh head, at every token 0, and is fitted once
    for each step of the policy, on that step's rollouts. Every process keeps a whole copy, whatever
    the strategy.
Cost: a second model, 16 bytes a parameter on every process, and its forward twice and backward
    once for every rollout.
"""

from collections.abc import Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save_file
from torch import Tensor, nn

from plm import checkpoint
from plm.batch import IGNORE_INDEX, Batch, LossSum
from plm.errors import CheckpointError, ConfigError
from plm.evaluation.common import seed_of
from plm.model.context import Context
from plm.policy.common import ABOVE_0, FROM_0, SHARE
from plm.policy.ppo import value_loss
from plm.rlvr.packing import dealt, packed
from plm.rlvr.rollouts import Rollout

KIND = "critic"


@dataclass(frozen=True)
class Settings:
    """How values are fitted; see configs/rlvr/ppo.yaml.

    Attributes:
        peak_lr: rate of AdamW (betas 0.9 and 0.95, no decay), times the schedule's share.
        clip: how far a value may move from what it was at the sampling; None: any way.
        clip_norm: largest gradient norm; 0: none.
        lam: λ of the returns; None: that of the advantages.
        warmup_steps: first steps of the run in which values are fitted and the policy stays.
    Raises:
        ConfigError: a value is out of its range.
    """

    peak_lr: float = 1e-4
    clip: float | None = 0.2
    clip_norm: float = 1.0
    lam: float | None = None
    warmup_steps: int = 0

    def __post_init__(self) -> None:
        ABOVE_0.check("stage.critic", peak_lr=self.peak_lr)
        FROM_0.check("stage.critic", clip_norm=self.clip_norm, warmup_steps=self.warmup_steps)
        if self.warmup_steps != int(self.warmup_steps):
            raise ConfigError(
                f"stage.critic.warmup_steps={self.warmup_steps} must be a whole number"
            )
        if self.clip is not None:
            ABOVE_0.check("stage.critic", clip=self.clip)
        if self.lam is not None:
            SHARE.check("stage.critic", lam=self.lam)


class Critic:
    """A value model with its optimizer.

    Args:
        model: a copy of the policy, which it takes over; its own losses are not looked at.
        settings: how it is fitted.
        device: of the model.
        rank, world_size: the processes share the rollouts out, and their gradients.
        micro: rollouts of one forward.
        seed: of what a forward draws.
    """

    def __init__(
        self,
        model: Any,
        settings: Settings,
        *,
        device: torch.device,
        rank: int = 0,
        world_size: int = 1,
        micro: int = 8,
        seed: int = 0,
    ) -> None:
        self.model, self.settings, self.device = model.float().train(), settings, device
        self.rank, self.world_size, self.micro, self.seed = rank, world_size, micro, seed
        self.head = nn.Linear(model.hidden_size, 1).to(device)
        for parameter in self.head.parameters():
            nn.init.zeros_(parameter)
        self.parts = nn.ModuleDict({"model": self.model, "head": self.head})
        self.parts.requires_grad_(True)
        self.optimizer = torch.optim.AdamW(
            self.parts.parameters(), lr=settings.peak_lr, betas=(0.9, 0.95), weight_decay=0.0
        )

    def values(
        self, hidden: Tensor, head_weight: Tensor, labels: Tensor, kernels: str = "auto"
    ) -> Tensor:
        """[N] fp32 before each of N labels, in a loss's place: hidden is [B, T, D]."""
        with torch.autocast(hidden.device.type, enabled=False):
            return self.head(hidden[labels != IGNORE_INDEX].float()).squeeze(-1)

    def learn(
        self, rollouts: Sequence[Rollout], planned: Any, *, share: float, step: int
    ) -> dict[str, LossSum]:
        """Fit the values to a step's returns.

        Args:
            rollouts: all of the step's, with `values` and `returns`.
            planned: the phase.
            share: of the peak rate.
            step: its number.
        Returns:
            what is logged, of this process: sums and counts.
        """
        parts = -(-len(rollouts) // (self.world_size * self.micro))
        hand = dealt([one.length for one in rollouts], self.world_size, parts)[self.rank]
        total = max(1, sum(one.chosen for one in rollouts))
        said = torch.zeros(3, dtype=torch.float64, device=self.device)
        for place, some in enumerate(hand):
            torch.manual_seed(seed_of(self.seed, f"critic/{step}/{self.rank}/{place}"))
            values, known = self._forward([rollouts[i] for i in some], planned)
            each = value_loss(values, known["values"], known["returns"], self.settings.clip)
            (each.sum() / total).backward()
            moved = (values - known["values"]).detach().abs()
            far = moved > (float("inf") if self.settings.clip is None else self.settings.clip)
            sums = each.detach().double().sum(), far.double().sum(), torch.ones_like(each).sum()
            said += torch.stack([one.double() for one in sums])
        self._step(share)
        loss, clipped, count = said.unbind()
        return {"value_loss": LossSum(loss, count), "value_clip": LossSum(clipped, count)}

    def _forward(self, rollouts: list[Rollout], planned: Any) -> tuple[Tensor, dict[str, Tensor]]:
        """[N] values with gradients, and what is known of the N tokens."""
        empty = torch.zeros(0, 0, dtype=torch.int64)
        windows, known, _ = packed(rollouts, planned.phase.seq_len, Batch(empty, empty, empty))
        windows = windows.to(self.device)
        with _wide(self.device):
            values = self.model(
                windows.tokens,
                context=Context.of(windows, rope_theta=planned.phase.rope_theta),
                labels=windows.labels,
                losses={"values": self.values},
            ).losses["values"]
        return values, {name: part.to(self.device) for name, part in known.items()}

    def _step(self, share: float) -> None:
        """One step of the optimizer; a gradient that is not finite leaves the weights."""
        parameters = list(self.parts.parameters())
        if self.world_size > 1:
            # A part that one process's rollouts went through may be left out by another's.
            there = torch.tensor([float(p.grad is not None) for p in parameters]).to(self.device)
            torch.distributed.all_reduce(there)
            for parameter, some in zip(parameters, there.tolist(), strict=True):
                if some:
                    if parameter.grad is None:
                        parameter.grad = torch.zeros_like(parameter)
                    torch.distributed.all_reduce(parameter.grad)
        learnt = [p for p in parameters if p.grad is not None]
        bound = self.settings.clip_norm or float("inf")
        norm = nn.utils.clip_grad_norm_(learnt, bound)
        for group in self.optimizer.param_groups:
            group["lr"] = self.settings.peak_lr * share
        if norm.isfinite():
            self.optimizer.step()
        self.optimizer.zero_grad(set_to_none=True)

    def write(self, folder: Path) -> None:
        """Weights and moments, as `critic.safetensors`."""
        found = {f"parts.{name}": value for name, value in _whole(self.parts).items()}
        for name, parameter in self.parts.named_parameters():
            for key, value in self.optimizer.state.get(parameter, {}).items():
                found[f"{key}.{name}"] = value
        plain = {name: value.detach().cpu().contiguous() for name, value in found.items()}
        save_file(plain, folder / f"{KIND}.safetensors")

    def read(self, folder: Path) -> None:
        """From a checkpoint.

        Raises:
            CheckpointError: it has no value model, or one of another shape.
        """
        found = checkpoint.read_weights(folder, KIND)
        try:
            weights = {n: found[f"parts.{n}"] for n in _whole(self.parts)}
            self.parts.load_state_dict(weights, strict=False)
        except (KeyError, RuntimeError) as error:
            raise CheckpointError(f"{folder}/{KIND}.safetensors does not fit: {error}") from error
        for name, parameter in self.parts.named_parameters():
            keys = [key for key in ("step", "exp_avg", "exp_avg_sq") if f"{key}.{name}" in found]
            # AdamW keeps its count of steps on the CPU.
            self.optimizer.state[parameter] = {
                key: found[f"{key}.{name}"].to("cpu" if key == "step" else self.device)
                for key in keys
            }


def _whole(parts: nn.Module) -> Mapping[str, Tensor]:
    """Weights by name, those that two places share once."""
    return {**dict(parts.named_parameters()), **dict(parts.named_buffers())}


def _wide(device: torch.device) -> AbstractContextManager[Any]:
    """Without fp16, for which nothing scales this loss."""
    on = torch.is_autocast_enabled(device.type)
    half = on and torch.get_autocast_dtype(device.type) == torch.float16
    return torch.autocast(device.type, enabled=False) if half else nullcontext()
