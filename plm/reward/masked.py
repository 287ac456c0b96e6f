"""The share of a solution's holes that are filled rightly.

Paper: Wang et al., MR-RLVR (arXiv:2511.17473), whose masked-then-fill reward this follows
Departs: a reconstruction. Holes are verified, not compared by likeness of their texts, and the
    answer is read strictly: a list that names a hole twice or one that is not there is worth 0.
"""

import re
from typing import Any

from plm.errors import ConfigError
from plm.process.arithmetic import LONGEST, expression, number
from plm.process.spans import key_of
from plm.reward.common import Example, own_text, worthless

_ENTRY = re.compile(r"[ \t]*\[([1-9][0-9]?)\][ \t]*[:=]?[ \t]*(\S.*)", re.ASCII)
# A number and at most two words for its unit.
_NUMBER = re.compile(
    r"([-+\u2212]?[ ]?\$?[-\u2212]?(?:\d[\d,]*)?(?:\.?\d+)(?:/\d+)?%?|-?\\[td]?frac\{\d+\}\{\d+\})"
    r"(?: [A-Za-z]+){0,2}\.?",
    re.ASCII,
)


def masked(completion: str, example: Example) -> float:
    """The weighted mean over the holes: 1 for one that is filled rightly, else 0.

    Args:
        completion: ends with a list, `[1] 24` and so on, a hole a line; any text may come first.
        example: of `plm.process.masked`; cut answers and copies of the question are worth 0.
    Raises:
        ConfigError: the example is of another task.
    """
    holes = _holes(example)
    found = _entries(completion, example, len(holes))
    right = [hole["weight"] for i, hole in enumerate(holes, 1) if verified(found.get(i, ""), hole)]
    # No right ones: exactly 0, and all: exactly 1, whatever the weights add up to.
    if len(right) == len(holes):
        return 1.0
    return sum(right) / sum(hole["weight"] for hole in holes)


def read(completion: str, example: Example) -> str | None:
    """The list that a completion ends with, in the form that is asked for; None: there is none.

    Raises:
        ConfigError: as `masked`.
    """
    found = _entries(completion, example, len(_holes(example)))
    return "\n".join(f"[{i}] {found[i]}" for i in sorted(found)) or None


def verified(answer: str, hole: dict[str, Any]) -> bool:
    """Whether an answer is what stood in a hole.

    Args:
        answer: one line.
        hole: its `kind` and `gold`, as in `plm.process.spans`. A number is right by its value, with
            a unit or without; an expression by its value and by having the same numbers and
            operators, so that 24 is not right for 48/2; a theorem by its words; a formula by its
            text but for white space, or by its value as the other two.
    """
    kind, gold = hole["kind"], hole["gold"]
    answer = answer.strip().strip("*`").strip()
    if not answer or len(answer) > LONGEST:
        return False
    if kind == "number":
        said = _NUMBER.fullmatch(answer)
        return said is not None and number(said[1]) == number(gold) is not None
    key = key_of(kind, gold)
    if key and key_of(kind, answer) == key:
        return True
    if kind == "theorem":
        return False
    if number(gold) is not None and kind == "latex":
        return number(answer) == number(gold)
    wanted = expression(gold)
    return wanted is not None and expression(answer) == wanted


def _entries(completion: str, example: Example, holes: int) -> dict[int, str]:
    """What fills which hole, from the lines at the end; empty for a list that is malformed."""
    if worthless(completion, example):
        return {}
    found: dict[int, str] = {}
    for line in reversed(own_text(completion, example).splitlines()):
        entry = _ENTRY.fullmatch(line.rstrip())
        if entry is None:
            break
        place = int(entry[1])
        if place in found or place > holes:
            return {}
        found[place] = entry[2]
    return found


def _holes(example: Example) -> list[dict[str, Any]]:
    holes = example.item.more.get("holes") if example.item is not None else None
    if not holes:
        raise ConfigError(
            "reward=masked: the prompts have no holes to fill; take prompts=masked, or another "
            "reward for these"
        )
    return holes
