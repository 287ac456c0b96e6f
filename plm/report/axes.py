"""Axes, thinning and smoothing of curves."""

import math
from collections.abc import Callable
from dataclasses import dataclass
from statistics import fmean, median

from plm.report.format import axis_labels, log_labels

Points = list[tuple[float, float]]


@dataclass(frozen=True)
class Axis:
    """A range of values with its ticks.

    Attributes:
        low, high: the values at the ends.
        ticks, labels: where a line is drawn, and what stands beside it.
        log: equal ratios are equal distances.
    """

    low: float
    high: float
    ticks: list[float]
    labels: list[str]
    log: bool = False

    def place(self, value: float) -> float:
        """Where a value lies, as a share of the axis: 0 at its low end, 1 at its high end."""
        if self.log:
            ratio = math.log(max(value, self.low) / self.low)
            return ratio / math.log(self.high / self.low)
        return (value - self.low) / (self.high - self.low)


def nice_step(length: float, count: int) -> float:
    """The smallest of 1, 2, 5 times a power of ten that cuts a length into at most `count`."""
    raw = length / max(count, 1)
    power = 10.0 ** math.floor(math.log10(raw))
    return next(power * factor for factor in (1, 2, 5, 10) if power * factor >= raw * (1 - 1e-9))


def token_axis(low: float, high: float, count: int) -> Axis:
    """An axis that ends exactly where the run does, with its ticks inside."""
    step = nice_step(high - low, count)
    first, last = math.ceil(low / step - 1e-9), math.floor(high / step + 1e-9)
    ticks = [index * step for index in range(first, last + 1)]
    return Axis(low, high, ticks, axis_labels(ticks))


def value_axis(values: list[float], count: int, *, zero: bool = False) -> Axis:
    """An axis that begins and ends at a tick.

    Args:
        values: everything to be shown; at least one.
        count: ticks wanted, about.
        zero: 0 is on the axis.
    """
    low, high = min(values), max(values)
    if zero:
        low, high = min(low, 0.0), max(high, 0.0)
    if high - low <= 1e-12 * max(abs(low), abs(high)):
        pad = abs(high) * 0.1 or 1.0
        low, high = (low, high + pad) if zero else (low - pad, high + pad)
    step = nice_step(high - low, count)
    first, last = math.floor(low / step + 1e-9), math.ceil(high / step - 1e-9)
    ticks = [index * step for index in range(first, last + 1)]
    return Axis(ticks[0], ticks[-1], ticks, axis_labels(ticks))


def log_axis(values: list[float]) -> Axis:
    """A logarithmic axis between 1, 2 or 5 times powers of ten; values must be above 0."""
    low, high = min(values), max(values)
    exponents = range(math.floor(math.log10(low)) - 1, math.ceil(math.log10(high)) + 2)
    marks = [10.0**exponent * factor for exponent in exponents for factor in (1, 2, 5)]
    bottom = max(mark for mark in marks if mark <= low * (1 + 1e-9))
    top = min(mark for mark in marks if mark >= high * (1 - 1e-9) and mark > bottom)
    ticks = [mark for mark in marks if bottom <= mark <= top]
    if len(ticks) > 7:
        ticks = [10.0**exponent for exponent in exponents if bottom <= 10.0**exponent <= top]
    return Axis(bottom, top, ticks, log_labels(ticks), log=True)


def spans_decades(values: list[float]) -> bool:
    """Would a linear axis squash most of the values: is the largest far above the median?"""
    above = sorted(value for value in values if value > 0)
    return len(above) == len(values) > 0 and above[-1] > 8 * above[len(above) // 2]


def thin(points: Points, limit: int) -> Points:
    """At most `limit` points, with the lowest and highest of every stretch kept: spikes stay."""
    if len(points) <= limit:
        return points
    stretches = max(1, (limit - 2) // 2)
    inner = points[1:-1]
    kept = [points[0]]
    for index in range(stretches):
        part = inner[index * len(inner) // stretches : (index + 1) * len(inner) // stretches]
        if part:
            ends = {min(part, key=lambda p: p[1]), max(part, key=lambda p: p[1])}
            kept.extend(sorted(ends))
    return [*kept, points[-1]]


def smooth(points: Points, width: int) -> Points:
    """Mean over `width` neighbours, as many before as after; fewer at the ends.

    Args:
        points: (x, y), in order of x.
        width: odd number of points; 1 changes nothing.
    """
    return _over_neighbours(points, width, fmean)


def calm(points: Points, width: int) -> Points:
    """Median over `width` neighbours: as `smooth`, but a lone spike leaves no trace."""
    return _over_neighbours(points, width, median)


def _over_neighbours(points: Points, width: int, middle: Callable[[list[float]], float]) -> Points:
    values, result = [y for _, y in points], []
    # A wide window moves by an eighth of itself: the cost stays in proportion to the rows.
    stride = max(1, width // 8)
    for index in dict.fromkeys([*range(0, len(points), stride), len(points) - 1]):
        reach = min(width // 2, index, len(points) - 1 - index)
        result.append((points[index][0], middle(values[index - reach : index + reach + 1])))
    return result
