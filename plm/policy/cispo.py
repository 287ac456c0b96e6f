"""REINFORCE weighted with the ratio, which is clipped and constant: no token loses its gradient.

Paper: MiniMax, MiniMax-M1: CISPO (arXiv:2506.13585)
Paper: Khatri et al., ScaleRL (arXiv:2510.13786), whose upper bound of 5 is the default here
Departs: the bounds are distances from 1, as in verl and in plm.kernels.linear_policy_loss; where
    TRL or ScaleRL write 5 for the bound itself, this is clip_high = 4.
"""

from plm.policy.common import Surrogate, Tokens, check_bounds, per_token, ratios


@per_token
def cispo(tokens: Tokens, *, clip_low: float = 1.0, clip_high: float = 4.0) -> Surrogate:
    """−sg(clip(r, 1 − low, 1 + high))·A·lp.

    Args:
        tokens: N sampled tokens.
        clip_low: how far the ratio may fall until it is held; from 1 on it is not.
        clip_high: how far it may rise until it is held.
    Raises:
        ConfigError: a bound is no number from 0 on.
    """
    check_bounds(clip_low=clip_low, clip_high=clip_high)
    ratio = ratios(tokens.logps.detach(), tokens.old_logps)
    low, high, moved = 1 - clip_low, 1 + clip_high, tokens.advantages != 0
    return Surrogate(
        -ratio.clamp(low, high) * tokens.advantages * tokens.logps,
        (ratio < low) & moved,
        (ratio > high) & moved,
    )
