"""The clipped surrogate with one ratio for a whole rollout, the geometric mean of its tokens'.

Paper: Zheng et al., Group sequence policy optimization (arXiv:2507.18071), sections 4.1 and 4.3
Departs: always in the form for tokens (GSPO-token), whose value and gradient are those of the form
    for sequences where a rollout's tokens have one advantage and one weight; a ratio is held at
    exp(20).
"""

import torch

from plm.policy.common import Surrogate, Tokens, check_bounds, means, ratios


def gspo(tokens: Tokens, *, clip_low: float = 3e-4, clip_high: float = 4e-4) -> Surrogate:
    """−min(s·A, clip(s, 1 − low, 1 + high)·A), s = exp(mean over the rollout of lp − old).

    Of token t the gradient is −s·A·∇lp_t, or none where s is held. With `sequence` as aggregation
    it is the paper's; with a weight that is the same for tokens of all rollouts (`token`), long
    rollouts count more.

    Args:
        tokens: N sampled tokens, all tokens of each rollout among them.
        clip_low, clip_high: how far s may fall or rise; a mean moves far less than a token.
    Raises:
        ConfigError: a bound is no number from 0 on.
    """
    check_bounds(clip_low=clip_low, clip_high=clip_high)
    logps, advantages = tokens.logps, tokens.advantages
    apart = (logps - tokens.old_logps).detach()
    mean = means(apart, tokens.rollout, tokens.number)[tokens.rollout]
    # The value is the mean's, the gradient that of the token's own log-probability.
    ratio = ratios(mean + (logps - logps.detach()), torch.zeros_like(mean))
    low, high = 1 - clip_low, 1 + clip_high
    bounded = ratio.clamp(low, high) * advantages
    return Surrogate(
        -torch.minimum(ratio * advantages, bounded),
        (ratio < low) & (advantages < 0),
        (ratio > high) & (advantages > 0),
    )
