"""Squared ReLU.

Paper: So et al., Primer (arXiv:2109.08668)
"""

from collections.abc import Callable

import torch
from torch import Tensor, nn

from plm.kernels.reference.relu2 import relu2 as reference
from plm.kernels.relu2 import relu2
from plm.model.context import Context


class ReLU2(nn.Module):
    """relu(x)²; elementwise, so a fused feed-forward may take it in."""

    fusible = True
    sparse = True
    exports = ("plm",)
    # The op of plm.kernels that takes in the products before and after.
    fused_mlp = "relu2_mlp"
    # Of a compiled product before it (plm.kernels.cpu).
    finish = "relu2"
    # Is given something with the output's zeros, fused or not; a hook would keep it from fusing.
    observe: Callable[[Tensor], None] | None = None

    def forward(self, x: Tensor, context: Context) -> Tensor:
        """Any shape, same out."""
        out = reference(x) if context.kernels == "reference" else relu2(x)
        if self.observe is not None:
            self.observe(out.detach())
        return out

    def overwrite(self, x: Tensor) -> Tensor:
        """`forward` in x's own memory, without a derivative."""
        x.relu_()
        torch.mul(x, x, out=x)
        if self.observe is not None:
            self.observe(x)
        return x
