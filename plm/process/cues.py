"""How far steps are put in order by their looks alone: words, and where their numbers are from."""

import re
from collections.abc import Sequence, Set

from plm.process.spans import numbers

_FIRST = re.compile(r"\b(?:let|first|firstly|begin|start|given|since|suppose|we know)\b", re.I)
_LAST = re.compile(
    r"\b(?:therefore|thus|hence|so|finally|answer|total|altogether|in all|in conclusion|left)\b",
    re.I,
)


def cue(step: str, known: Set[str]) -> float:
    """How late a step looks, from -1 to 2.

    That is: whether it has words of endings, less whether it has words of beginnings, and the share
    of its numbers that are not known.
    """
    own = {key for _, _, key in numbers(step)}
    new = len(own - known) / len(own) if own else 0.0
    return bool(_LAST.search(step)) - bool(_FIRST.search(step)) + new


def by_cues(steps: Sequence[str], question: str) -> float:
    """The share of positions that are right if steps are sorted by `cue`.

    Args:
        steps: in their right order.
        question: before them, whose numbers are known.
    Returns:
        The mean over all orders of steps that look equally late.
    """
    known = {key for _, _, key in numbers(question)}
    cues = [cue(step, known) for step in steps]
    ranked, right = sorted(cues), 0.0
    for place, own in enumerate(cues):
        if ranked[place] == own:
            right += 1 / cues.count(own)
    return right / len(cues)
