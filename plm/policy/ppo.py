"""PPO with a value model: the clipped surrogate with a second clip, and the loss of the values.

Paper: Schulman et al., Proximal policy optimization algorithms (arXiv:1707.06347)
Paper: Ye et al., Mastering complex control in MOBA games with deep reinforcement learning
    (arXiv:1912.09729): the dual clip
Departs: the value's clipped loss is that of OpenAI's code; the paper has the square alone.
Cost: a value model's forward and backward beside the policy's.
"""

import torch
from torch import Tensor

from plm.policy.clip import check_cap, clip
from plm.policy.common import ABOVE_0, Surrogate, Tokens, check_bounds, per_token


@per_token
def ppo(
    tokens: Tokens,
    *,
    clip_low: float = 0.2,
    clip_high: float = 0.2,
    dual_clip: float | None = 3.0,
) -> Surrogate:
    """−min(r·A, clip(r)·A), and of a negative advantage no more than −c·A.

    Args:
        tokens: N sampled tokens, with an advantage each.
        clip_low, clip_high: how far the ratio may fall or rise before it has no gradient.
        dual_clip: c; above it a token with a negative advantage has no gradient, and counts as
            above. None: it keeps it.
    Raises:
        ConfigError: a bound is no number from 0 on, or dual_clip lies within the upper one.
    """
    check_bounds(clip_low=clip_low, clip_high=clip_high)
    if dual_clip is not None:
        check_cap(clip_high, dual_clip=dual_clip)
    # A positive advantage is held at 1 + clip_high already, so a cut of the ratio is the same.
    return clip(tokens, clip_low=clip_low, clip_high=clip_high, cap=dual_clip)


def value_loss(
    values: Tensor, old_values: Tensor, returns: Tensor, clip: float | None = 0.2
) -> Tensor:
    """½·max((v − R)², (v_old + clip(v − v_old, ±c) − R)²) of each token.

    Args:
        values: [N], of the value model, with gradients, in the unit of the rewards.
        old_values: [N], the same before the batch was used.
        returns: [N], what they should have been, constant.
        clip: c; a value that moved farther towards its return has no gradient. None: the square.
    Returns:
        [N], dtype of values.
    Raises:
        ConfigError: clip is not above 0.
    """
    square = (values - returns) ** 2
    if clip is None:
        return square / 2
    ABOVE_0.check("value", clip=clip)
    near = old_values + (values - old_values).clamp(-clip, clip)
    return torch.maximum(square, (near - returns) ** 2) / 2
