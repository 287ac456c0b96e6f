"""DAPO's soft punishment of long completions, moved from [-1, 0] to [0, 1].

Added with weight 1 it gives the same advantages as the paper's: within a group the shift drops out.

Paper: Yu et al., DAPO (arXiv:2503.14476)
Departs: shifted by 1; what is empty, was cut, or only says the question again has 0.
Cost: nothing.
"""

from plm.errors import ConfigError
from plm.evaluation.kinds import check_kinds
from plm.reward.common import UNITS, Example, size_of, worthless


def overlong(
    completion: str,
    example: Example,
    *,
    longest: int = 256,
    cache: int = 64,
    unit: str | None = None,
) -> float:
    """1 up to `longest` - `cache`, from there down to 0 at `longest` in a straight line.

    Args:
        completion: without special tokens.
        example: its tokens, as they were drawn.
        longest: at which nothing is left; max_new_tokens, as a rule.
        cache: length of the line.
        unit: tokens or characters; null: tokens where they were counted, else characters.
    Raises:
        ConfigError: a cache that does not fit, or tokens where none were counted.
    """
    told = {"reward.longest": longest, "reward.cache": cache, "reward.unit": unit}
    check_kinds(told, {"reward.longest": int, "reward.cache": int, "reward.unit": (str, None)})
    if not 0 < cache <= longest or unit not in (None, *UNITS):
        raise ConfigError(
            f"reward.longest={longest}, cache={cache}, unit={unit}: take 0 < cache <= longest and "
            f"as unit null, {' or '.join(UNITS)}"
        )
    if worthless(completion, example):
        return 0.0
    left = longest - size_of(completion, example, unit)
    return min(1.0, max(0.0, left / cache))
