"""Rotary position embedding on interleaved pairs (2i, 2i + 1), in plain torch.

Paper: Su et al., RoFormer (arXiv:2104.09864), section 3.2
"""

import torch
from torch import Tensor


def rope(x: Tensor, cos: Tensor, sin: Tensor) -> Tensor:
    """Turn each pair of `x` by its position's angle.

    Args:
        x: [B, T, H, R] or [B, T, R], R even.
        cos, sin: [B, T, R / 2], fp32 or fp64.
    Returns:
        Same shape and dtype as x; computed in fp32, in fp64 for fp64.
    """
    if x.dim() == 4:
        cos, sin = cos[:, :, None], sin[:, :, None]
    wide = x if x.dtype in (torch.float32, torch.float64) else x.float()
    cos, sin = cos.to(wide.dtype), sin.to(wide.dtype)
    even, odd = wide[..., 0::2], wide[..., 1::2]
    turned = torch.stack((even * cos - odd * sin, even * sin + odd * cos), dim=-1)
    return turned.flatten(-2).to(x.dtype)
