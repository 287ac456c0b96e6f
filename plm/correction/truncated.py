"""The ratio of trainer to sampler, held between two bounds.

Paper: Yao et al., Your efficient RL framework secretly brings you off-policy RL training
    (fengyao.notion.site/off-policy-rl): truncated importance sampling
"""

from torch import Tensor

from plm.correction.common import check_band, mismatch


def truncated(
    old_logps: Tensor,
    sampler_logps: Tensor,
    rollout: Tensor,
    number: int,
    *,
    low: float = 0.0,
    high: float | None = 2.0,
    level: str = "token",
) -> Tensor:
    """clip(exp(old − sampler), low, high).

    Args:
        old_logps: [N], fp32 or fp64, the trainer's, of the weights that drew the tokens.
        sampler_logps: [N], the sampler's; NaN counts as equal.
        rollout: [N] int64, which of the R rollouts each token belongs to.
        number: R.
        low, high: what the ratio is held at; a high of None is no bound.
        level: "token", or "sequence" for the product over a rollout, one weight for all of it.
    Returns:
        [N], dtype of old_logps, without a gradient.
    Raises:
        ConfigError: the band does not lie around 1, or level is another word.
    """
    check_band(low, high, level)
    ratio = mismatch(old_logps, sampler_logps, rollout, number, level)
    return ratio.clamp(low, high)
