"""How often a source may be read.

Paper: Muennighoff et al., Scaling data-constrained language models (arXiv:2305.16264): up to four
    epochs are worth almost as much as new text, later ones less and less.
"""

import logging
from collections.abc import Mapping

from plm.errors import ConfigError

log = logging.getLogger("plm")

WAYS = ("warn", "refuse")


def check_epochs(
    epochs: Mapping[str, float], most: float | Mapping[str, float | None] | None, past: str
) -> None:
    """Warn, or refuse, where a source is read more often than it may be.

    Args:
        epochs: of each source over the whole run.
        most: for all sources, or by source; None: no limit.
        past: warn or refuse.
    Raises:
        ConfigError: a source passes its limit and `past` is refuse; a limit that is no number
            above 0, or names no source.
    """
    if past not in WAYS:
        raise ConfigError(f"data.past_max_epochs={past} is not one of {', '.join(WAYS)}")
    limits = most if isinstance(most, Mapping) else dict.fromkeys(epochs, most)
    for name, limit in limits.items():
        key = f"data.max_epochs.{name}" if isinstance(most, Mapping) else "data.max_epochs"
        if name not in epochs:
            raise ConfigError(f"{key}: {name} is no source of this run; it has {', '.join(epochs)}")
        if limit is None:
            continue
        if not isinstance(limit, int | float) or isinstance(limit, bool) or not limit > 0:
            raise ConfigError(f"{key}={limit!r} must be a number above 0, or null")
        if epochs[name] > limit:
            line = (
                f"{key}={limit:g}: the phases read the source {name} {epochs[name]:.1f} times; "
                "give it more text, a lower weight or fewer tokens"
            )
            if past == "refuse":
                raise ConfigError(line)
            log.warning("%s", line)
