"""Predicted time of our kernels and of plain torch, on GPUs by their data sheets.

    from plm.kernels.roofline import GPUS, Shape, predict
    predict("relu2_mlp", Shape.of(scale), GPUS["H100"]).ratio

Nothing here has been measured on a GPU: the model is in roofline_work, the kernels of each op in
roofline_ops and roofline_attention, those of other libraries in roofline_peers, and how far the
model is off from times that others published in roofline_points.
"""

from dataclasses import dataclass

from plm.errors import ConfigError
from plm.kernels import roofline_attention as attention
from plm.kernels import roofline_ops as ops
from plm.kernels.roofline_ops import Shape
from plm.kernels.roofline_work import GPUS, Gpu, Work, seconds, times, total_bytes

__all__ = ["GPUS", "OPS", "Gpu", "Prediction", "Shape", "Work", "break_even", "predict"]

# By op: ours, and what it is compared with; each gives forward and backward.
OPS = {
    "linear_cross_entropy": (ops.linear_cross_entropy, ops.eager_linear_cross_entropy),
    "linear_logprob": (ops.linear_logprob, ops.eager_linear_logprob),
    "relu2_mlp": (ops.relu2_mlp, ops.eager_relu2_mlp),
    "relu2": (ops.relu2, lambda s: ops.eager_relu2(s.tokens * s.feed)),
    "mla_attention": (attention.mla_attention, attention.eager_mla_attention),
    "mla_decode": (attention.mla_decode, attention.expanded_decode),
    "rope": (attention.rope, attention.eager_rope),
    "latent_norm": (attention.latent_norm, attention.eager_latent_norm),
    "rms_norm": (ops.rms_norm, ops.eager_rms_norm),
    "add_rms_norm": (ops.add_rms_norm, ops.eager_add_rms_norm),
    "adamw": (ops.adamw, ops.eager_adamw),
}
MODES = ("forward", "backward", "full")


@dataclass(frozen=True)
class Prediction:
    """What the roofline says of an op, with our kernels and with plain torch.

    Attributes:
        fused_s, unfused_s: seconds.
        bytes_fused, bytes_unfused: between the GPU and its memory.
        flops_fused, flops_unfused: on the matrix unit.
        launches_fused, launches_unfused: kernels started.
        bound: of what takes most of our time: "compute", "memory" or "launches".
    """

    op: str
    gpu: str
    fused_s: float
    unfused_s: float
    bytes_fused: float
    bytes_unfused: float
    flops_fused: float
    flops_unfused: float
    launches_fused: int
    launches_unfused: int
    bound: str

    @property
    def ratio(self) -> float:
        """Times that ours is faster."""
        return self.unfused_s / self.fused_s


def works(op: str, shape: Shape, mode: str = "full") -> tuple[list[Work], list[Work]]:
    """Kernels of an op, ours and plain torch's.

    Raises:
        ConfigError: there is no such op or mode.
    """
    if op not in OPS:
        raise ConfigError(f"op={op} is not one of: {', '.join(OPS)}")
    if mode not in MODES:
        raise ConfigError(f"mode={mode} is not one of: {', '.join(MODES)}")
    chosen = []
    for side in OPS[op]:
        forward, backward = side(shape)
        chosen.append({"forward": forward, "backward": backward}.get(mode, forward + backward))
    return chosen[0], chosen[1]


def _bound(found: list[Work], gpu: Gpu) -> str:
    spent = {"compute": 0.0, "memory": 0.0, "launches": 0.0}
    for work in found:
        compute, memory = times(work, gpu)
        launching = seconds([work], gpu) - max(compute, memory)
        spent["compute" if compute > memory else "memory"] += max(compute, memory)
        spent["launches"] += launching
    return max(spent, key=lambda kind: spent[kind])


def predict(op: str, shape: Shape, gpu: Gpu, mode: str = "full") -> Prediction:
    """Predicted time of an op; measured by nobody.

    Args:
        op: key of OPS.
        shape: of the micro-batch.
        gpu: one of GPUS, or another.
        mode: "forward", "backward" or "full".
    Raises:
        ConfigError: there is no such op or mode.
    """
    ours, eager = works(op, shape, mode)
    return Prediction(
        op,
        gpu.name,
        seconds(ours, gpu),
        seconds(eager, gpu),
        total_bytes(ours),
        total_bytes(eager),
        sum(work.flops for work in ours),
        sum(work.flops for work in eager),
        sum(work.launches for work in ours),
        sum(work.launches for work in eager),
        _bound(ours, gpu),
    )


def break_even(op: str, shape: Shape, gpu: Gpu) -> float:
    """Share of a library's rate that Triton's own products must reach for ours not to be slower.

    Below 1 there is room; above 1 ours is slower although it is as fast a product. 0: it has none.
    """
    ours, eager = works(op, shape)
    if not any(work.own for work in ours):
        return 0.0
    target, low, high = seconds(eager, gpu), 1e-3, 10.0
    for _ in range(40):
        middle = (low + high) / 2
        low, high = (middle, high) if seconds(ours, gpu, middle) > target else (low, middle)
    return high
