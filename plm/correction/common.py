"""Weights for tokens that the sampler drew with other arithmetic than the trainer's.

A correction is `(old_logps [N], sampler_logps [N], rollout [N] int64, number, **settings) -> [N]`:
the factor on each token's loss, without a gradient, from the ratio of what the trainer says of the
weights that drew the token to what the sampler said. Of a whole rollout the ratio is the product of
its tokens', as in TRL and verl: the sum of the log-ratios, not their mean, so it grows with length.
"""

import math
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from plm.errors import ConfigError
from plm.policy.common import Numbers, check_choice, tried

LEVELS = ("token", "sequence")
FROM_0 = Numbers("a number from 0 on; 0 is no bound", lambda value: 0 <= value < math.inf)


def mismatch(
    old_logps: Tensor, sampler_logps: Tensor, rollout: Tensor, number: int, level: str
) -> Tensor:
    """[N], without a gradient: ratio of each token, or the product over its rollout.

    Args:
        old_logps: [N], fp32 or fp64, the trainer's.
        sampler_logps: [N]; NaN where the sampler did not say it: the token's ratio is 1.
        rollout: [N] int64, which of the R rollouts each token belongs to.
        number: R.
        level: "token" or "sequence"; all tokens of a rollout must be there for "sequence".
    """
    gap = (old_logps - sampler_logps).detach()
    gap = gap.masked_fill(gap.isnan(), 0.0)
    if level == "sequence":
        gap = gap.new_zeros(number).index_add(0, rollout, gap)[rollout]
    return gap.exp()


def check_band(low: Any, high: Any, level: Any) -> None:
    """Refuse a band that cannot be.

    Raises:
        ConfigError: a bound is no number from 0 on, low is above 1 or high below it, or level is
            another word.
    """
    FROM_0.check("correction", low=low)
    if high is not None:
        FROM_0.check("correction", high=high)
    if low > 1 or (high is not None and high < 1):
        raise ConfigError(
            f"correction.low={low!r} and high={high!r} must lie around 1, which is the ratio where "
            "sampler and trainer agree"
        )
    check_choice("correction", LEVELS, level=level)


def check(correction: Callable[..., Tensor]) -> None:
    """Refuse a correction's settings before anything is sampled: calls it on made-up tokens.

    Args:
        correction: a partial, as a configuration builds it, or a function.
    Raises:
        ConfigError: a setting that it does not take, or a value that it refuses.
    """
    logps = torch.tensor([-1.0, -2.0, -3.0])
    tried("correction", correction, logps, logps + 0.1, torch.tensor([0, 0, 1]), 2)
