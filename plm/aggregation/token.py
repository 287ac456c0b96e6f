"""Each token counts alike, so that a long rollout counts more than a short one.

Paper: Yu et al., DAPO (arXiv:2503.14476), equation 8
"""

import torch
from torch import Tensor


def token(lengths: Tensor, *, longest: int) -> Tensor:
    """1 / N a token, N the tokens of all rollouts.

    Args:
        lengths: [R] int64, tokens with a loss.
        longest: most tokens that a rollout may have; not used.
    Returns:
        [R] fp64.
    """
    return torch.ones_like(lengths, dtype=torch.float64) / lengths.sum().double().clamp(min=1)
