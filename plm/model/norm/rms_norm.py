"""Root-mean-square norm, in fp32, its weight multiplied in fp32 before the cast back.

Paper: Zhang & Sennrich (arXiv:1910.07467)
"""

import torch
from torch import Tensor, nn

from plm.kernels import pick
from plm.kernels.cpu import Kernels
from plm.model.common import fuses
from plm.model.decoding import Frame, Run


class RMSNorm(nn.Module):
    """x / rms(x) · weight over the last axis.

    Args:
        size: length of the last axis.
        eps: added to the mean square.

    `kernels` is set by the model, since a norm is not given the context.
    """

    exports = ("plm", "llama", "qwen2", "qwen3")

    def __init__(self, size: int, *, eps: float = 1e-6) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.ones(size))
        self.eps, self.kernels = eps, "auto"

    def forward(self, x: Tensor) -> Tensor:
        """[..., size], same dtype out."""
        x = x.contiguous() if fuses(self.kernels, x) else x
        return pick(self.kernels).rms_norm(x, self.weight, self.eps)

    def after_sum(self, x: Tensor, residual: Tensor) -> tuple[Tensor, Tensor]:
        """The norm of x + residual, and the sum, in one pass; [..., size] each."""
        return pick(self.kernels).add_rms_norm(x, residual, self.weight, self.eps)

    def of_latent(
        self, kv_a: Tensor, rotary: tuple[Tensor, Tensor], rotate: bool
    ) -> tuple[Tensor, Tensor]:
        """Of a projection [..., size + R], the norm of the first part and the second, turned or
        as it is.
        """
        op, size = pick(self.kernels).latent_norm, self.weight.shape[0]
        return op(kv_a, self.weight, *rotary, self.eps, rank=size, rotate=rotate)

    def fast(self, frame: Frame, out: Tensor | None = None) -> Run:
        """`forward` of [B, size] for a decoding step, into `out`."""
        size = self.weight.shape[0]
        out = frame.empty(frame.rows, size) if out is None else out
        scale = frame.empty(frame.rows, 1)
        eps, weight = scale.new_tensor(self.eps), self.weight.detach()

        def run(x: Tensor) -> Tensor:
            torch.linalg.vector_norm(x, dim=-1, keepdim=True, out=scale)
            torch.addcmul(eps, scale, scale, value=1 / size, out=scale)
            return torch.mul(x, scale.rsqrt_(), out=out).mul_(weight)

        return run

    def write(self, kernels: Kernels, x: Tensor, out: Tensor) -> Tensor:
        """Write down `forward` of x [B, size] into `out`, by compiled kernels."""
        return kernels.rms_norm(x, self.weight.detach(), self.eps, out)

    def init_weights(self, generator: torch.Generator, std: float) -> None:
        """Ones, also for a model that was made without memory."""
        nn.init.ones_(self.weight)
