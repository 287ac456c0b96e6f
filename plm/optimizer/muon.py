"""Muon for hidden matrices, AdamW for the rest, in one optimizer.

Paper: Jordan et al., Muon (kellerjordan.github.io/posts/muon); Liu et al. (arXiv:2502.16982) for
the weight decay and the scale of the update, with which AdamW's rate serves both.
Departs: torch's own Muon always runs its products in bf16, which a CPU without bf16 instructions
does tens of times slower than fp32; here the device decides. It also refuses other parameters.
Cost: one tensor a hidden matrix; steps · (4·n²·m + 2·n³) FLOPs for an [n, m] matrix, n <= m.
"""

import math
from collections.abc import Callable, Iterable
from typing import Any

import torch
from torch import Tensor
from torch.optim.adamw import adamw as adamw_step

from plm.errors import ConfigError
from plm.optimizer.common import NamedParameter, can_fuse, check_settings, decays, group

_ADAMW_ROLES = ("embedding", "head", "norm")
# Of the quintic a x + b x^3 + c x^5, chosen by Jordan for its slope at 0.
_QUINTIC = (3.4445, -4.7750, 2.0315)


def orthogonalise(matrix: Tensor, steps: int = 5) -> Tensor:
    """Nearest semi-orthogonal matrix, up to singular values of about 0.7 to 1.2.

    Args:
        matrix: [out, in].
        steps: Newton-Schulz iterations.
    Returns:
        [out, in], bf16 on CUDA, otherwise fp32; zero for a zero matrix.
    """
    a, b, c = _QUINTIC
    work = matrix.to(torch.bfloat16 if matrix.device.type == "cuda" else torch.float32)
    tall = work.shape[0] > work.shape[1]
    work = work.t() if tall else work
    work = work / work.norm().clamp(min=1e-7)
    for _ in range(steps):
        gram = work @ work.t()
        work = torch.addmm(work, torch.addmm(gram, gram, gram, beta=b, alpha=c), work, beta=a)
    return work.t() if tall else work


def _whole(tensor: Tensor) -> Tensor:
    full = getattr(tensor, "full_tensor", None)
    return tensor if full is None else full()


def _sharded_as(update: Tensor, parameter: Tensor) -> Tensor:
    """The update, which every rank holds whole, laid out as the parameter is."""
    if not hasattr(parameter, "full_tensor"):
        return update
    from torch.distributed.tensor import DTensor, Replicate

    mesh = parameter.device_mesh
    whole = DTensor.from_local(update.contiguous(), mesh, [Replicate()] * mesh.ndim)
    return whole.redistribute(placements=parameter.placements)


class Muon(torch.optim.Optimizer):
    """Groups have `kind`: "muon" or "adamw".

    Sharded (DTensor) matrices are gathered, orthogonalised on every rank, and cut again.
    """

    needs_whole_matrices = True
    """Strategies that hand over flat shards of the weights (ZeRO) cannot use it."""

    def __init__(self, groups: list[dict[str, Any]], fused: bool) -> None:
        super().__init__(groups, {"fused": fused})

    @torch.no_grad()
    def step(self, closure: Callable[[], Any] | None = None) -> Any:
        """One update of every parameter that has a gradient."""
        loss = None
        if closure is not None:
            with torch.enable_grad():
                loss = closure()
        for settings in self.param_groups:
            if settings["kind"] == "muon":
                self._muon(settings)
            else:
                self._adamw(settings)
        return loss

    def _muon(self, settings: dict[str, Any]) -> None:
        for parameter in settings["params"]:
            if parameter.grad is None:
                continue
            if parameter.ndim != 2:
                raise ConfigError(
                    f"optimizer=muon got a shard of shape {tuple(parameter.shape)} in place of a "
                    f"matrix; use optimizer=adamw with ZeRO, or trainer=ddp or fsdp"
                )
            state = self.state[parameter]
            if not state:
                state["momentum"] = torch.zeros_like(parameter)
            momentum = state["momentum"]
            momentum.lerp_(parameter.grad, 1 - settings["momentum"])
            update = momentum
            if settings["nesterov"]:
                update = parameter.grad.lerp(momentum, settings["momentum"])
            update = orthogonalise(_whole(update), settings["steps"]).to(parameter.dtype)
            rate = settings["lr"]
            parameter.mul_(1 - rate * settings["weight_decay"])
            scale = 0.2 * math.sqrt(max(parameter.shape))
            parameter.add_(_sharded_as(update, parameter), alpha=-rate * scale)

    def _adamw(self, settings: dict[str, Any]) -> None:
        parameters = [item for item in settings["params"] if item.grad is not None]
        for parameter in parameters:
            if not self.state[parameter]:
                self.state[parameter] = {
                    # On the parameter's device: the fused step reads it there.
                    "step": torch.zeros((), dtype=torch.float32, device=parameter.device),
                    "exp_avg": torch.zeros_like(parameter),
                    "exp_avg_sq": torch.zeros_like(parameter),
                }
        states = [self.state[parameter] for parameter in parameters]
        beta1, beta2 = settings["betas"]
        adamw_step(
            parameters,
            [parameter.grad for parameter in parameters],
            [state["exp_avg"] for state in states],
            [state["exp_avg_sq"] for state in states],
            [],
            [state["step"] for state in states],
            fused=settings["fused"],
            amsgrad=False,
            beta1=beta1,
            beta2=beta2,
            lr=settings["lr"],
            weight_decay=settings["weight_decay"],
            eps=settings["eps"],
            maximize=False,
        )


def muon(
    named_parameters: Iterable[NamedParameter],
    *,
    lr: float,
    momentum: float = 0.95,
    nesterov: bool = True,
    steps: int = 5,
    betas: tuple[float, float] = (0.9, 0.95),
    eps: float = 1e-8,
    weight_decay: float = 0.1,
    decay_embeddings: bool = False,
) -> Muon:
    """Muon for matrices that are neither embedding, head nor norm; AdamW for all others.

    Args:
        named_parameters: frozen ones are left out.
        lr: peak rate, the same for both.
        momentum: decay of Muon's running mean, a step.
        nesterov: whether the gradient is blended in once more.
        steps: Newton-Schulz iterations.
        betas, eps: AdamW's.
        weight_decay: taken off a step, times the rate; off norms and vectors.
        decay_embeddings: whether that holds for embeddings too.
    Raises:
        ConfigError: a setting out of its range, nothing to train.
    """
    beta1, beta2 = betas
    check_settings("muon", lr=lr, momentum=momentum, beta1=beta1, beta2=beta2, eps=eps)
    check_settings("muon", weight_decay=weight_decay)
    if steps < 1:
        raise ConfigError(f"optimizer.steps={steps} of muon is not 1 or more")

    def settings_of(item: NamedParameter) -> dict[str, Any]:
        decay = weight_decay if decays(item, decay_embeddings) else 0.0
        if item.parameter.ndim == 2 and item.role not in _ADAMW_ROLES:
            own = {"kind": "muon", "momentum": momentum, "nesterov": nesterov, "steps": steps}
        else:
            own = {"kind": "adamw", "betas": (beta1, beta2), "eps": eps}
        return {"weight_decay": decay, **own}

    items = list(named_parameters)
    return Muon(group(items, lr, settings_of), can_fuse(items))
