"""The policy gradient as it is: no ratio, no clip.

Paper: Williams, Simple statistical gradient-following algorithms for connectionist reinforcement
    learning (Machine Learning 8, 1992)
Paper: Ahmadian et al., Back to basics: RLOO (arXiv:2402.14740), with `advantage=leave_one_out`
Departs: with several updates a batch it is biased from the second on, since nothing says that the
    rollouts are the old policy's.
"""

import torch

from plm.policy.common import Surrogate, Tokens, per_token


@per_token
def reinforce(tokens: Tokens) -> Surrogate:
    """−A·lp; the old log-probabilities are not read.

    Args:
        tokens: N sampled tokens.
    Returns:
        No token counts as held.
    """
    free = torch.zeros_like(tokens.advantages, dtype=torch.bool)
    return Surrogate(-tokens.advantages * tokens.logps, free, free)
