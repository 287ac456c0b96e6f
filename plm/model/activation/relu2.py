"""Squared ReLU.

Paper: So et al., Primer (arXiv:2109.08668)
"""

from torch import Tensor, nn

from plm.kernels.reference.relu2 import relu2 as reference
from plm.kernels.relu2 import relu2
from plm.model.context import Context


class ReLU2(nn.Module):
    """relu(x)²; elementwise, so a fused feed-forward may take it in."""

    fusible = True
    sparse = True

    def forward(self, x: Tensor, context: Context) -> Tensor:
        """Any shape, same out."""
        return reference(x) if context.kernels == "reference" else relu2(x)
