"""Feed-forward with a squared ReLU in plain torch.

Paper: So et al., Primer (arXiv:2109.08668)
"""

import torch.nn.functional as F
from torch import Tensor

from plm.kernels.reference.relu2 import relu2


def relu2_mlp(x: Tensor, up: Tensor, down: Tensor) -> Tensor:
    """relu(x @ up.T)^2 @ down.T.

    Args:
        x: [..., D].
        up: [F, D].
        down: [D, F].
    Returns:
        [..., D] in the dtype of x; under autocast the products run in its dtype.
    """
    return F.linear(relu2(F.linear(x, up)), down)
