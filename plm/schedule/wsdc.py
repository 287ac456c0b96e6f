"""Warm-up, stable, decay, constant: each phase has its segment of the rate.

Paper: Deng et al., PLM (arXiv:2503.12167)
"""

from collections.abc import Sequence

from plm.schedule.common import Schedule, Segment, join


def wsdc(segments: Sequence[Segment], start_tokens: int = 0) -> Schedule:
    """The phases' own segments, joined.

    Args:
        segments: one a phase, in order; those of a fork may begin with its decay.
        start_tokens: tokens seen where the first of them begins.
    Returns:
        `(tokens_seen) -> share of the peak rate`.
    Raises:
        ConfigError: no segment, or one that cannot work.
    """
    return join(segments, start_tokens)
