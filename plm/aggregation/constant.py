"""Each token counts alike, and as much in every batch: no length is divided by.

Paper: Liu et al., Understanding R1-Zero-Like Training: Dr. GRPO (arXiv:2503.20783), section 3.2
"""

import torch
from torch import Tensor

from plm.aggregation.common import there


def constant(lengths: Tensor, *, longest: int) -> Tensor:
    """1 / (R · longest) a token.

    Args:
        lengths: [R] int64, tokens with a loss.
        longest: most tokens that a rollout may have.
    Returns:
        [R] fp64.
    """
    return torch.ones_like(lengths, dtype=torch.float64) / (there(lengths) * longest)
