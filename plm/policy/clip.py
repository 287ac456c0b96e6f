"""The clipped surrogate of PPO on single tokens; GRPO, DAPO and Dr. GRPO differ in what is around.

Paper: Schulman et al., Proximal policy optimization algorithms (arXiv:1707.06347), equation 7
Paper: Shao et al., DeepSeekMath: GRPO (arXiv:2402.03300)
Paper: Yu et al., DAPO (arXiv:2503.14476): an upper bound of its own
Paper: Liu et al., Understanding R1-Zero-Like Training: Dr. GRPO (arXiv:2503.20783)
Departs: a ratio is held at exp(20), as in verl.
"""

import math

import torch

from plm.policy.common import Numbers, Surrogate, Tokens, check_bounds, per_token, ratios


@per_token
def clip(
    tokens: Tokens, *, clip_low: float = 0.2, clip_high: float = 0.2, cap: float | None = None
) -> Surrogate:
    """−min(r·A, clip(r, 1 − low, 1 + high)·A), r the ratio to the old policy.

    Args:
        tokens: N sampled tokens.
        clip_low, clip_high: how far the ratio may fall or rise before it has no gradient.
        cap: the ratio itself is cut there first, which bounds the loss of a negative advantage
            (TRL's `delta`); tokens that it holds count as above. None: it is not cut.
    Raises:
        ConfigError: a bound is no number from 0 on, or the cap lies within the upper one.
    """
    check_bounds(clip_low=clip_low, clip_high=clip_high)
    if cap is not None:
        check_cap(clip_high, cap=cap)
    ratio = ratios(tokens.logps, tokens.old_logps)
    low, high, advantages = 1 - clip_low, 1 + clip_high, tokens.advantages
    bounded = ratio.clamp(low, high) * advantages
    free = (ratio if cap is None else ratio.clamp(max=cap)) * advantages
    above = (ratio > high) & (advantages > 0)
    if cap is not None:
        above = above | (ratio > cap) & (advantages < 0)
    return Surrogate(-torch.minimum(free, bounded), (ratio < low) & (advantages < 0), above)


def check_cap(clip_high: float, **settings: float) -> None:
    """Refuse a cap on the ratio, by name, that would hold it before the upper bound does.

    Raises:
        ConfigError: the key, what came, the rule.
    """
    Numbers(
        f"a number above 1 + clip_high = {1 + clip_high}, or null",
        lambda value: 1 + clip_high < value < math.inf,
    ).check("policy", **settings)
