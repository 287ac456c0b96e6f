"""Warm-up, then half a cosine over the whole run.

Paper: Loshchilov and Hutter, SGDR (arXiv:1608.03983)
"""

from collections.abc import Sequence

from plm.schedule.common import Schedule, Segment, join, span


def cosine(segments: Sequence[Segment], start_tokens: int = 0, *, final: float = 0.1) -> Schedule:
    """Linear warm-up, then a cosine; takes only the phases' lengths and the first's warm-up.

    Args:
        segments: one a phase, in order.
        start_tokens: tokens seen where the first of them begins.
        final: share of the peak rate at the end.
    Raises:
        ConfigError: final is not a share, or the warm-up leaves nothing to decay.
    """
    total, warmup = span(segments, "cosine")
    return join([Segment(total, "cosine", final, warmup)], start_tokens, ("schedule=cosine: rate",))
