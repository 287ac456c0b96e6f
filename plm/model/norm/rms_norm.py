"""Root-mean-square norm, in fp32, its weight multiplied in fp32 before the cast back.

Paper: Zhang & Sennrich (arXiv:1910.07467)
"""

import torch
from torch import Tensor, nn

from plm.kernels import pick


class RMSNorm(nn.Module):
    """x / rms(x) · weight over the last axis.

    Args:
        size: length of the last axis.
        eps: added to the mean square.

    `kernels` is set by the model, since a norm is not given the context.
    """

    def __init__(self, size: int, *, eps: float = 1e-6) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.ones(size))
        self.eps, self.kernels = eps, "auto"

    def forward(self, x: Tensor) -> Tensor:
        """[..., size], same dtype out."""
        return pick(self.kernels).rms_norm(x, self.weight, self.eps)

    def init_weights(self, generator: torch.Generator, std: float) -> None:
        """Ones, also for a model that was made without memory."""
        nn.init.ones_(self.weight)
