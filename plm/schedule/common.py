"""Segments of a learning-rate schedule, and the function of tokens that they make.

A schedule is called as `schedule(tokens_seen) -> share of the peak rate`. The rate of a step is
`schedule(tokens seen before it + tokens in it)`: so the first step of a warm-up is not at 0, and
the last one of a decay is at its end.
"""

import logging
import math
from bisect import bisect_left
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial

from plm.errors import ConfigError

Schedule = Callable[[int], float]

_log = logging.getLogger(__name__)

_LEFT: dict[str, Callable[[float], float]] = {
    "linear": lambda done: 1.0 - done,
    "cosine": lambda done: 0.5 * (1.0 + math.cos(math.pi * done)),
    "one_minus_sqrt": lambda done: 1.0 - math.sqrt(done),
}
SHAPES = ("hold", *_LEFT, "exponential")


@dataclass(frozen=True)
class Segment:
    """The rate over one phase, as shares of the peak.

    Attributes:
        tokens: length.
        shape: hold (constant at `to`), or a way from `start` to `to`: linear, cosine,
            one_minus_sqrt, exponential.
        to: share at the end.
        warmup_tokens: linear rise from 0 over the first tokens; the shape has the others.
        start: share that a decay starts from; None: where the segment before ended, 1 at first.
        name: of the phase, for messages.
    """

    tokens: int
    shape: str
    to: float
    warmup_tokens: int = 0
    start: float | None = None
    name: str = ""


def _check(segment: Segment, key: str, start: float) -> None:
    """Refuse a segment that cannot work; `start` is where it begins, given or inherited."""
    if segment.shape not in SHAPES:
        raise ConfigError(f"{key}.shape={segment.shape!r} is not one of: {', '.join(SHAPES)}")
    if segment.tokens <= 0:
        raise ConfigError(f"{key}: the phase has {segment.tokens} tokens; it needs at least 1")
    for name, value in (("to", segment.to), ("start", start)):
        if not 0 <= value <= 1:
            raise ConfigError(f"{key}.{name}={value} is not a share of the peak rate, in [0, 1]")
    decays = segment.shape != "hold"
    room = segment.tokens - (1 if decays else 0)
    if not 0 <= segment.warmup_tokens <= room:
        raise ConfigError(
            f"{key}.warmup_tokens={segment.warmup_tokens} is outside 0 to {room}, which the phase "
            f"of {segment.tokens} tokens has room for; lengthen the phase or shorten the warm-up"
        )
    if segment.start is not None and not decays:
        raise ConfigError(f"{key}.start={segment.start} has no meaning with shape=hold; drop it")
    if segment.shape == "exponential" and min(segment.to, start) <= 0:
        raise ConfigError(
            f"{key}: shape=exponential goes from {start} to {segment.to}, but it cannot reach or "
            f"leave 0; give a small positive `to` or choose linear"
        )


def _level(segment: Segment, start: float, inside: int) -> float:
    """Share of the peak `inside` tokens after the segment's begin, at most its length."""
    held = segment.to if segment.shape == "hold" else start
    if inside < segment.warmup_tokens:
        return held * inside / segment.warmup_tokens
    if segment.shape == "hold" or inside == segment.tokens:
        return segment.to
    done = (inside - segment.warmup_tokens) / (segment.tokens - segment.warmup_tokens)
    if segment.shape == "exponential":
        return start * (segment.to / start) ** done
    return segment.to + (start - segment.to) * _LEFT[segment.shape](done)


def _share(
    begins: tuple[int, ...],
    segments: tuple[Segment, ...],
    starts: tuple[float, ...],
    tokens_seen: int,
) -> float:
    # A boundary belongs to the segment that ends there: that segment's last step is read there.
    index = max(0, bisect_left(begins, tokens_seen) - 1)
    segment = segments[index]
    inside = min(max(0, tokens_seen - begins[index]), segment.tokens)
    return _level(segment, starts[index], inside)


def join(
    segments: Sequence[Segment], start_tokens: int = 0, keys: Sequence[str] | None = None
) -> Schedule:
    """The segments one after another from `start_tokens` on, then the last value for ever.

    Args:
        segments: in order.
        start_tokens: tokens seen where the first of them begins.
        keys: what messages call each segment; None: the key of its phase.
    Returns:
        A pure function, which can be pickled. Before `start_tokens` it gives the first value.
    Raises:
        ConfigError: no segment, or one that cannot work; names the phase and the key.
    """
    if not segments:
        raise ConfigError("phases: a schedule needs at least one phase")
    if start_tokens < 0:
        raise ConfigError(f"a schedule cannot start at {start_tokens} tokens")
    begins, starts, begin, level = [], [], start_tokens, 1.0
    for number, segment in enumerate(segments):
        level = level if segment.start is None else segment.start
        key = keys[number] if keys else f"phases.{segment.name or number}.rate"
        _check(segment, key, level)
        begins.append(begin)
        starts.append(level)
        begin, level = begin + segment.tokens, segment.to
    return partial(_share, tuple(begins), tuple(segments), tuple(starts))


def span(segments: Sequence[Segment], schedule: str) -> tuple[int, int]:
    """Tokens of all segments and warm-up of the first, for a schedule that takes no more of them.

    Raises:
        ConfigError: there is no segment.
    """
    if not segments:
        raise ConfigError("phases: a schedule needs at least one phase")
    _log.info("schedule=%s: the phases' rate segments are not used", schedule)
    return sum(segment.tokens for segment in segments), segments[0].warmup_tokens
