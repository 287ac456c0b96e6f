"""The share of a solution's steps that are put in their place.

Paper: Wang et al., MR-RLVR (arXiv:2511.17473), whose step-reordering reward this follows
Departs: a reconstruction. Positions are compared, since pairs in order would give half of the
    reward for any order; an answer that is no permutation of the labels is worth 0.
"""

import re

from plm.errors import ConfigError
from plm.reward.common import Example, own_text, worthless

_LINE = re.compile(
    r"[ \t*]*(?:(?:answer|order)[ \t*]*:)?[ \t*]*((?-i:[A-Z](?:[ \t]*(?:[,;>]|->)?[ \t]*[A-Z])+))"
    r"[ \t*]*\.?[ \t*]*",
    re.ASCII | re.IGNORECASE,
)
_LABEL = re.compile(r"[A-Z]")
LONGEST = 200
"""Letters of the line of labels."""


def reordered(completion: str, example: Example) -> float:
    """Positions that hold the right label, over all positions.

    Args:
        completion: its last line is labels in order, as `C A D B`; any text may come first, but no
            other such line.
        example: of `plm.process.reordered`; cut answers and copies of the question are worth 0.
    Raises:
        ConfigError: the example is of another task.
    """
    wanted = _order(example)
    said = read(completion, example)
    if said is None:
        return 0.0
    return sum(a == b for a, b in zip(said.split(), wanted, strict=True)) / len(wanted)


def read(completion: str, example: Example) -> str | None:
    """The labels with spaces between; None where they are missing, repeated or more than asked for.

    Raises:
        ConfigError: as `reordered`.
    """
    wanted = _order(example)
    if worthless(completion, example):
        return None
    *before, last = own_text(completion, example).splitlines()
    if any(_labels(line) for line in before):
        return None
    labels = _labels(last)
    return " ".join(labels) if sorted(labels) == sorted(wanted) else None


def _labels(line: str) -> list[str]:
    found = _LINE.fullmatch(line) if len(line) <= LONGEST else None
    return _LABEL.findall(found[1]) if found else []


def _order(example: Example) -> list[str]:
    order = example.item.more.get("order") if example.item is not None else None
    if not order:
        raise ConfigError(
            "reward=reordered: the prompts have no steps to put in order; take prompts=reordered, "
            "or another reward for these"
        )
    return order
