"""Addition to the residual stream and the norm after it, in plain torch.

Paper: Zhang and Sennrich (arXiv:1910.07467)
"""

from torch import Tensor

from plm.kernels.reference.rms_norm import rms_norm


def add_rms_norm(x: Tensor, residual: Tensor, weight: Tensor, eps: float) -> tuple[Tensor, Tensor]:
    """The sum x + residual, and its root-mean-square norm times weight.

    Args:
        x, residual: [..., D].
        weight: [D].
        eps: added to the mean square.
    Returns:
        The norm and the sum, [..., D] in the dtype that x + residual has.
    """
    summed = x + residual
    return rms_norm(summed, weight, eps), summed
