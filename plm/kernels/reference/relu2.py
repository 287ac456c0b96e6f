"""Squared ReLU in plain torch.

Paper: So et al., Primer (arXiv:2109.08668)
"""

from torch import Tensor


def relu2(x: Tensor) -> Tensor:
    """relu(x)^2, any shape; dtype of x."""
    positive = x.relu()
    return positive * positive
