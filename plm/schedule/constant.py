"""Warm-up, then the peak rate to the end."""

from collections.abc import Sequence

from plm.schedule.common import Schedule, Segment, join, span


def constant(segments: Sequence[Segment], start_tokens: int = 0) -> Schedule:
    """Linear warm-up, then constant; takes only the phases' lengths and the first's warm-up.

    Args:
        segments: one a phase, in order.
        start_tokens: tokens seen where the first of them begins.
    Raises:
        ConfigError: no segment, or a warm-up longer than the run.
    """
    total, warmup = span(segments, "constant")
    return join([Segment(total, "hold", 1.0, warmup)], start_tokens, ("schedule=constant: rate",))
