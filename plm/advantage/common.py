"""What advantages share: the rewards of a batch of rollouts, by kind and by group.

An advantage is `(scored, **settings) -> [R]`: how much better each rollout was than expected. It is
finite, and 0 for a rollout that no kind judges; such a rollout is in no mean and no deviation.
One that sets `needs_values` takes a value model's estimates instead (`gae`).
"""

from collections.abc import Callable
from typing import NamedTuple

import torch
from torch import Tensor

from plm.policy.common import ABOVE_0, tried


class Scored(NamedTuple):
    """R rollouts of a whole batch, over all processes.

    Attributes:
        kinds: [R, K] fp64, reward of each kind; NaN where a kind does not judge the rollout's
            source: it counts as not there.
        weights: [K] fp64.
        groups: [R] int64, which prompt's group each belongs to, from 0; rising.
    """

    kinds: Tensor
    weights: Tensor
    groups: Tensor

    @property
    def total(self) -> Tensor:
        """[R] fp64, weighted sum of the kinds; 0 where none judges."""
        # Kind by kind: of equal rows a matrix product may round the last bit differently.
        worth = self.kinds.nan_to_num(nan=0.0) * self.weights
        return sum(worth.unbind(1), self.kinds.new_zeros(len(self.kinds)))

    @property
    def judged(self) -> Tensor:
        """[R] fp64, the total; NaN where no kind judges."""
        return self.total.masked_fill(self.kinds.isnan().all(1), float("nan"))


def _sums(values: Tensor, groups: Tensor) -> tuple[Tensor, Tensor]:
    """[P] each: sum of each group's values that are no NaN, and their number."""
    number = int(groups.max()) + 1 if len(groups) else 0
    there = (~values.isnan()).to(values)
    empty = values.new_zeros(number)
    total = empty.index_add(0, groups, values.nan_to_num(nan=0.0))
    return total, empty.index_add(0, groups, there)


def group_mean(values: Tensor, groups: Tensor) -> Tensor:
    """[R]: of each rollout, the mean of its group's values that are no NaN; 0 if all are."""
    total, count = _sums(values, groups)
    return (total / count.clamp(min=1))[groups]


def group_std(values: Tensor, groups: Tensor) -> Tensor:
    """[R]: of each rollout, its group's standard deviation with Bessel's correction.

    NaN counts as not there; of one value and of equal ones it is 0, exactly.
    """
    total, count = _sums(apart(values, groups) ** 2, groups)
    return (total / (count - 1).clamp(min=1)).sqrt()[groups]


def group_size(values: Tensor, groups: Tensor) -> Tensor:
    """[R]: of each rollout, how many of its group's values are no NaN; dtype of values."""
    return _sums(values, groups)[1][groups]


def apart(values: Tensor, groups: Tensor) -> Tensor:
    """[R]: how far each lies from its group's mean; NaN stays. 0, exactly, in a group of equals.

    A mean of equal values need not be that value: 0.1 + 0.1 + 0.1 is not 0.3.
    """
    equal = same(values, groups)[groups] & ~values.isnan()
    return (values - group_mean(values, groups)).masked_fill(equal, 0.0)


def same(values: Tensor, groups: Tensor) -> Tensor:
    """[P] bool: groups whose values are all equal, exactly; NaN counts as not there."""
    number = int(groups.max()) + 1 if len(groups) else 0
    infinity = float("inf")
    least, most = (values.masked_fill(values.isnan(), end) for end in (infinity, -infinity))
    low = values.new_full((number,), infinity).scatter_reduce(0, groups, least, "amin")
    high = values.new_full((number,), -infinity).scatter_reduce(0, groups, most, "amax")
    return low >= high


def check_eps(eps: float) -> None:
    """Refuse an eps that would leave 0 / 0 where rewards are equal.

    Raises:
        ConfigError: it is not above 0.
    """
    ABOVE_0.check("advantage", eps=eps)


def needs_values(advantage: Callable[..., object]) -> bool:
    """Whether an advantage is made from a value model's estimates, a token each."""
    return getattr(getattr(advantage, "func", advantage), "needs_values", False)


def check(advantage: Callable[..., object]) -> None:
    """Refuse an advantage's settings before anything is sampled: calls it on made-up rewards.

    Args:
        advantage: a partial, as a configuration builds it, or a function.
    Raises:
        ConfigError: a setting that it does not take, or a value that it refuses.
    """
    groups = torch.tensor([0, 0, 1])
    if needs_values(advantage):
        tried("advantage", advantage, torch.ones(3), torch.zeros(3), groups)
        return
    kinds = torch.tensor([[1.0, 0.0], [0.0, 0.0], [1.0, float("nan")]], dtype=torch.float64)
    tried("advantage", advantage, Scored(kinds, torch.ones(2, dtype=torch.float64), groups))
