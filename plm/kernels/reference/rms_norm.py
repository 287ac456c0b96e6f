"""Root-mean-square norm in plain torch.

Paper: Zhang and Sennrich (arXiv:1910.07467)
"""

import torch
from torch import Tensor


def rms_norm(x: Tensor, weight: Tensor, eps: float) -> Tensor:
    """x / sqrt(mean(x^2) + eps) * weight over the last dimension.

    Args:
        x: [..., D].
        weight: [D].
        eps: added to the mean square.
    Returns:
        [..., D] in the dtype of x; the arithmetic, weight included, is fp32 (fp64 for fp64).
    """
    wide = torch.float64 if x.dtype == torch.float64 else torch.float32
    rows = x.to(wide)
    inverse = torch.rsqrt(rows.square().mean(-1, keepdim=True) + eps)
    return (rows * inverse * weight.to(wide)).to(x.dtype)
