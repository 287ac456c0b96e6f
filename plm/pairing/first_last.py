"""The first answer of a chain against its last, where the score does not contradict.

Paper: Zeng et al., ARIES (arXiv:2502.05605), which selects pairs by a reward model or by a rule
Departs: the rule is a reconstruction: the paper's own is not known to us.
"""

from collections.abc import Sequence

from plm.pairing.common import (
    ALL_EQUAL,
    ALL_RIGHT,
    ALL_WRONG,
    MARGIN,
    Paired,
    apart,
    by_ends,
    check,
)
from plm.rounds.common import Answer

BELOW = "last answer scores below the first"


def first_last(
    answers: Sequence[Answer], *, min_margin: float = 0.0, drop_cut: bool = True
) -> Paired:
    """One pair of each chain whose last answer scores higher than its first.

    With reward=rule that is every chain whose two ends differ.

    Args:
        answers: of one prompt, scored.
        min_margin: least difference of the two scores; equal ones never make a pair.
        drop_cut: leave out answers that ended because they were too long.
    Raises:
        ConfigError: a setting that cannot be.
    """
    check(min_margin=min_margin)

    def against(chain: list[Answer]) -> str | None:
        first, last = chain[0], chain[-1]
        if apart(last, first, min_margin):
            return None
        if last.score == first.score:
            return {1.0: ALL_RIGHT, 0.0: ALL_WRONG}.get(last.score, ALL_EQUAL)
        return BELOW if last.score < first.score else MARGIN

    return by_ends(answers, against, drop_cut=drop_cut, scored=True)
