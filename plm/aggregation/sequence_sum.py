"""The mean over rollouts of the sum over their tokens: the policy gradient of whole rollouts.

Paper: Ahmadian et al., Back to basics: RLOO (arXiv:2402.14740), where a rollout is one action
"""

import torch
from torch import Tensor

from plm.aggregation.common import there


def sequence_sum(lengths: Tensor, *, longest: int) -> Tensor:
    """1 / R a token (verl's seq-mean-token-sum).

    Args:
        lengths: [R] int64, tokens with a loss.
        longest: most tokens that a rollout may have; not used.
    Returns:
        [R] fp64.
    """
    return torch.ones_like(lengths, dtype=torch.float64) / there(lengths)
