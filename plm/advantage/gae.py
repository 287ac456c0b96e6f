"""Advantages of single tokens from a value model.

Paper: Schulman et al., High-dimensional continuous control using generalized advantage estimation
    (arXiv:1506.02438), equation 16
Departs: a rollout's end is worth 0 beyond its last reward, also where it was cut; whitening is
    common in code and not in the paper.
Cost: log2 of the longest rollout passes over the tokens.
"""

import torch
from torch import Tensor

from plm.policy.common import SHARE


def gae(
    rewards: Tensor,
    values: Tensor,
    rollout: Tensor,
    *,
    gamma: float = 1.0,
    lam: float = 1.0,
    whiten: bool = False,
) -> tuple[Tensor, Tensor]:
    """A_t = sum over k of (γλ)^k·δ_(t+k) within the rollout, δ_t = r_t + γ·v_(t+1) − v_t.

    Args:
        rewards: [N], fp32 or fp64: what each token earned; an outcome's stands at the last one.
        values: [N], of the value model before each token, without gradients.
        rollout: [N] int64, which rollout each belongs to; rising.
        gamma: γ, discount a token.
        lam: λ; 1 takes what the rollout really earned, 0 the next value's word for it.
        whiten: take the mean of all advantages from them, and divide by their deviation.
    Returns:
        Advantages [N], and returns [N], which values should have been: advantages + values.
    Raises:
        ConfigError: gamma or lam lies outside [0, 1].
    """
    SHARE.check("advantage", gamma=gamma, lam=lam)
    advantages = rewards + gamma * _later(values, rollout, 1) - values
    # Twice the distance each time: after n passes every token has the sum of the next 2^n deltas.
    distance, factor = 1, gamma * lam
    longest = int(torch.bincount(rollout).max()) if len(rollout) else 0
    while distance < longest:
        advantages = advantages + factor * _later(advantages, rollout, distance)
        distance, factor = 2 * distance, factor * factor
    returns = advantages + values
    if whiten and len(advantages):
        apart = advantages - advantages.mean()
        # Without variance they are all at the mean, and worth nothing.
        advantages = apart / (apart.square().mean().sqrt() + 1e-8)
    return advantages, returns


gae.needs_values = True


def _later(values: Tensor, rollout: Tensor, distance: int) -> Tensor:
    """[N]: of each token, the value of the one that far behind it in its rollout, or 0."""
    found = torch.zeros_like(values)
    inside = rollout[distance:] == rollout[:-distance]
    found[:-distance] = values[distance:] * inside
    return found
