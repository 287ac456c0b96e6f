"""Estimates and their spread: pass@k, intervals, standard errors, paired tests.

Paper: Chen et al., Evaluating large language models trained on code (arXiv:2107.03374)
Also: Wilson (1927) for the interval of a share; McNemar (1947), exact, for paired answers; Fisher's
    test by flipped signs (1935) for other paired differences.
"""

import math
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np

Z95 = 1.959963984540054
"""Two-sided 95 % point of the normal distribution."""
RESAMPLES = 2000
EXACT_ITEMS = 12
"""Up to so many items that differ, all ways to flip signs are gone through."""
FLIPS = 9999
"""Ways that are drawn where there are more items."""


class Figure(NamedTuple):
    """A figure with its spread.

    Attributes:
        value: the estimate.
        error: its standard error.
        low, high: ends of its 95 % interval.
        n: items that it rests on.
        interval: wilson, bootstrap (over items, percentile), normal, reported where another program
            gave value and error, or mcnemar where the value is a p and has none.
    """

    value: float
    error: float
    low: float
    high: float
    n: int
    interval: str


def pass_at_k(samples: int, correct: int, k: int) -> float:
    """Unbiased estimate of the chance that one of k samples is right.

    Args:
        samples: drawn for the item, at least k.
        correct: of them, right.
    """
    assert 0 <= correct <= samples and 1 <= k <= samples
    if samples - correct < k:
        return 1.0
    # One minus the chance to draw k wrong ones, as a product: the binomials would overflow.
    return 1.0 - math.prod(1.0 - k / i for i in range(samples - correct + 1, samples + 1))


def wilson(right: int, n: int) -> tuple[float, float]:
    """95 % interval of a share; (0, 1) where n is 0."""
    if n == 0:
        return 0.0, 1.0
    share, square = right / n, Z95**2
    middle = (share + square / (2 * n)) / (1 + square / n)
    half = Z95 / (1 + square / n) * math.sqrt(share * (1 - share) / n + square / (4 * n * n))
    # Exactly at the ends: rounding would leave 3e-18 there.
    return (middle - half if right else 0.0), (middle + half if right < n else 1.0)


def bootstrap(values: Sequence[float], seed: int) -> tuple[float, float]:
    """95 % percentile interval of a mean over items, from `RESAMPLES` draws of items.

    Args:
        values: one an item, at least one.
        seed: of the draws; the same one gives the same interval.
    """
    return _percentiles(_resampled(np.asarray(values, dtype=np.float64), seed))


def _resampled(columns: np.ndarray, seed: int) -> np.ndarray:
    """[R] or [R, C] means of [n] or [n, C] over resampled items, in parts that fit the memory."""
    draw, n = np.random.default_rng(seed), len(columns)
    part = max(1, 4_000_000 // n)
    found = []
    for low in range(0, RESAMPLES, part):
        rows = draw.integers(0, n, size=(min(part, RESAMPLES - low), n))
        found.append(columns[rows].mean(axis=1))
    return np.concatenate(found)


def _percentiles(draws: np.ndarray) -> tuple[float, float]:
    low, high = np.quantile(draws, [0.025, 0.975])
    return float(low), float(high)


def mean_of(values: Sequence[float], seed: int) -> Figure:
    """Mean over items: Wilson's interval where each is 0 or 1, else the bootstrap's.

    Args:
        values: one an item; none gives NaN.
        seed: of the bootstrap.
    """
    n = len(values)
    if n == 0:
        return Figure(math.nan, math.nan, math.nan, math.nan, 0, "wilson")
    value = math.fsum(values) / n
    spread = math.fsum((v - value) ** 2 for v in values)
    if all(v in (0.0, 1.0) for v in values):
        low, high = wilson(round(math.fsum(values)), n)
        return Figure(value, math.sqrt(spread) / n, low, high, n, "wilson")
    low, high = bootstrap(values, seed)
    error = math.sqrt(spread / (n - 1) / n) if n > 1 else math.nan
    return Figure(value, error, low, high, n, "bootstrap")


def ratio_of(tops: Sequence[float], bottoms: Sequence[float]) -> Figure:
    """Sum of tops over sum of bottoms (nats over tokens), its error by linearisation over items.

    Args:
        tops, bottoms: one an item; bottoms are positive. None gives NaN.
    """
    n, bottom = len(tops), math.fsum(bottoms)
    if n == 0 or bottom == 0:
        return Figure(math.nan, math.nan, math.nan, math.nan, n, "normal")
    value = math.fsum(tops) / bottom
    if n == 1:
        return Figure(value, math.nan, math.nan, math.nan, 1, "normal")
    squares = math.fsum((t - value * b) ** 2 for t, b in zip(tops, bottoms, strict=True))
    error = math.sqrt(n / (n - 1) * squares) / bottom
    return Figure(value, error, value - Z95 * error, value + Z95 * error, n, "normal")


def mcnemar(only_first: int, only_second: int) -> float:
    """Two-sided exact p of McNemar's test: items that just one of the two got right."""
    n, few = only_first + only_second, min(only_first, only_second)
    if n == 0:
        return 1.0
    tail = sum(math.comb(n, i) for i in range(few + 1))
    # Whole numbers divided once: 2.0 ** n would overflow.
    return min(1.0, 2 * tail / 2**n)


def sign_flip(differences: Sequence[float], seed: int) -> float:
    """Two-sided p that a mean difference over items is 0: by chance, each could have either sign.

    Args:
        differences: second less first, one an item.
        seed: of the flips that are drawn, above `EXACT_ITEMS` items that differ.
    Returns:
        Share of the ways to flip signs that give a mean as far from 0, or farther; below
        2 / 2**n of n items that differ it cannot be, nor below 1 / (FLIPS + 1).
    """
    values = np.asarray([d for d in differences if d], dtype=np.float64)
    n = len(values)
    if n == 0:
        return 1.0
    # Sums in another order round otherwise, and equal ones must count.
    least = abs(values.sum()) - 1e-9 * np.abs(values).sum()
    if n <= EXACT_ITEMS:
        flips = np.arange(2**n)[:, None] >> np.arange(n) & 1
        return float(np.mean(np.abs((1 - 2 * flips) @ values) >= least))
    draw, met = np.random.default_rng(seed), 0
    part = max(1, 4_000_000 // n)
    for low in range(0, FLIPS, part):
        flips = draw.integers(0, 2, size=(min(part, FLIPS - low), n), dtype=np.int8)
        met += int(np.sum(np.abs((1 - 2 * flips) @ values) >= least))
    # The outcome itself is one of the ways, so that p is never 0.
    return (met + 1) / (FLIPS + 1)


def normal_p(value: float, error: float) -> float:
    """Two-sided p that a value with this standard error is 0."""
    if error == 0 or math.isnan(error):
        return 1.0 if value == 0 else (math.nan if math.isnan(error) else 0.0)
    return math.erfc(abs(value / error) / math.sqrt(2))
