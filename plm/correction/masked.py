"""The ratio of trainer to sampler, and 0 outside a band: tokens drawn too differently are left out.

Paper: Liu et al., When speed kills stability (richardli.xyz/rl-collapse): masked importance
    sampling
Departs: a token that is left out stays in the denominators of the aggregation, as in TRL.
"""

from torch import Tensor

from plm.correction.common import check_band, mismatch


def masked(
    old_logps: Tensor,
    sampler_logps: Tensor,
    rollout: Tensor,
    number: int,
    *,
    low: float = 0.0,
    high: float | None = 3.0,
    level: str = "sequence",
) -> Tensor:
    """exp(old − sampler) from low to high, else 0.

    Args:
        old_logps: [N], fp32 or fp64, the trainer's, of the weights that drew the tokens.
        sampler_logps: [N], the sampler's; NaN counts as equal.
        rollout: [N] int64, which of the R rollouts each token belongs to.
        number: R.
        low, high: the band, its ends included; a high of None is no bound.
        level: "token", or "sequence" for the product over a rollout, one weight for all of it.
    Returns:
        [N], dtype of old_logps, without a gradient.
    Raises:
        ConfigError: the band does not lie around 1, or level is another word.
    """
    check_band(low, high, level)
    ratio = mismatch(old_logps, sampler_logps, rollout, number, level)
    outside = ratio < low
    if high is not None:
        outside = outside | (ratio > high)
    return ratio.masked_fill(outside, 0.0)
