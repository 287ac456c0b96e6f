"""Warm-up, stable, decay, over the whole run.

Paper: Hu et al., MiniCPM (arXiv:2404.06395); Hägele et al. (arXiv:2405.18392) for 1-sqrt.
"""

from collections.abc import Sequence

from plm.errors import ConfigError
from plm.schedule.common import Schedule, Segment, join, span


def wsd(
    segments: Sequence[Segment],
    start_tokens: int = 0,
    *,
    decay_share: float = 0.2,
    shape: str = "one_minus_sqrt",
    final: float = 0.0167,
) -> Schedule:
    """Linear warm-up, constant, decay; takes only the phases' lengths and the first's warm-up.

    Args:
        segments: one a phase, in order.
        start_tokens: tokens seen where the first of them begins.
        decay_share: part of all tokens that the decay has.
        shape: of the decay: linear, cosine, one_minus_sqrt, exponential.
        final: share of the peak rate at the end.
    Raises:
        ConfigError: a share outside (0, 1), an unknown shape, a warm-up longer than what is left.
    """
    total, warmup = span(segments, "wsd")
    if not 0 < decay_share < 1:
        raise ConfigError(f"schedule.decay_share={decay_share} is not between 0 and 1")
    decay = max(1, round(total * decay_share))
    parts = [
        Segment(total - decay, "hold", 1.0, warmup_tokens=warmup),
        Segment(decay, shape, final),
    ]
    return join(parts, start_tokens, ("schedule=wsd: stable", "schedule=wsd: decay"))
