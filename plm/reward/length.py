"""1 for a completion whose length lies in a range, less the farther it lies outside.

Departs: no paper; a shaping term of straight lines, to be weighed beside a reward for being right.
Cost: nothing.
"""

from plm.errors import ConfigError
from plm.evaluation.kinds import check_kinds
from plm.reward.common import UNITS, Example, size_of, worthless


def length(
    completion: str,
    example: Example,
    *,
    least: int = 1,
    most: int = 256,
    ramp: int = 128,
    unit: str | None = None,
) -> float:
    """1 from `least` to `most`, down to 0 in a straight line over `ramp` on either side.

    What is empty, was cut, or only says the question again has 0.

    Args:
        completion: without special tokens.
        example: its tokens, as they were drawn.
        least, most: of the range, both in it.
        ramp: so far outside the reward is 0; 0: at once.
        unit: tokens or characters; null: tokens where they were counted, else characters.
    Raises:
        ConfigError: a range that is none, or tokens where none were counted.
    """
    told = {"least": least, "most": most, "ramp": ramp, "unit": unit}
    dotted = {f"reward.{name}": value for name, value in told.items()}
    check_kinds(dotted, {name: (str, None) if "unit" in name else int for name in dotted})
    if not 0 <= least <= most or ramp < 0 or unit not in (None, *UNITS):
        raise ConfigError(
            f"reward.least={least}, most={most}, ramp={ramp}, unit={unit}: take 0 <= least <= most,"
            f" ramp >= 0 and as unit null, {' or '.join(UNITS)}"
        )
    if worthless(completion, example):
        return 0.0
    size = size_of(completion, example, unit)
    outside = max(least - size, size - most, 0)
    return 1.0 if not outside else max(0.0, 1 - outside / ramp) if ramp else 0.0
