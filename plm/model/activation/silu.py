"""SiLU, x·sigmoid(x).

Paper: Elfwing et al. (arXiv:1702.03118)
"""

import torch.nn.functional as F
from torch import Tensor, nn

from plm.model.context import Context


class SiLU(nn.Module):
    """x·sigmoid(x); elementwise, without zeros."""

    fusible = True
    sparse = False
    # Of a compiled product of gates and what they are multiplied with (plm.kernels.cpu).
    gate_finish = "silu_gate"
    exports = ("llama", "qwen2", "qwen3")

    def forward(self, x: Tensor, context: Context) -> Tensor:
        """Any shape, same out."""
        return F.silu(x)

    def overwrite(self, x: Tensor) -> Tensor:
        """`forward` in x's own memory, without a derivative."""
        return F.silu(x, inplace=True)
