"""Rotary position embedding on interleaved pairs (2i, 2i + 1).

Paper: Su et al., RoFormer (arXiv:2104.09864), section 3.2
"""

from torch import Tensor

from plm.kernels import pick


def rotate(x: Tensor, rotary: tuple[Tensor, Tensor], kernels: str = "auto") -> Tensor:
    """Turn each pair of `x` by its position's angle.

    Args:
        x: [B, T, H, R] or [B, T, R], R even.
        rotary: cosine and sine, each [B, T, R / 2], fp32 or fp64.
        kernels: "auto", "triton" or "reference".
    Returns:
        Same shape and dtype as x; computed in fp32, in fp64 for fp64.
    """
    return pick(kernels).rope(x, *rotary)
