"""The baseline of a memory: each item is answered as the most similar trained problem was."""

from collections.abc import Callable, Iterable
from typing import Any
from zlib import crc32

from plm.errors import ConfigError
from plm.evaluation.generated import BOOTSTRAP_SEED, Item
from plm.evaluation.statistics import Figure, mean_of

_BITS = 4096
_LETTERS = 3

Right = Callable[[str | None, str, str, dict[str, Any]], bool]


def nearest(
    items: list[Item], trained: Callable[[str], Iterable[tuple[str, str]]], right: Right
) -> dict[str, Figure]:
    """Accuracy of the nearest trained problem's answer, over all items and by group.

    Similar is what shares most runs of three letters, by Jaccard's measure (runs are hashed to
    4,096 places, so that a few coincide); of equally similar problems the first one counts.

    Args:
        items: grouped by family.
        trained: question and answer of a family's trained problems.
        right: `(answer, wanted, family, entry)`.
    Raises:
        ConfigError: a family has no trained problems to look up.
    """
    values: dict[str, list[float]] = {}
    for family in dict.fromkeys(item.group for item in items):
        known = [(runs_of(question), answer) for question, answer in trained(family)]
        if not known:
            raise ConfigError(f"lookup: no trained problems of {family} are named; see trained")
        values[family] = [
            float(right(_answer(item, known), item.answer, family, item.more["entry"]))
            for item in items
            if item.group == family
        ]
    found = {"lookup": mean_of([v for some in values.values() for v in some], BOOTSTRAP_SEED)}
    if len(values) > 1:
        found |= {f"lookup/{name}": mean_of(v, BOOTSTRAP_SEED) for name, v in values.items()}
    return found


def _answer(item: Item, known: list[tuple[int, str]]) -> str:
    mine = runs_of(item.question)
    return max(known, key=lambda one: similarity(mine, one[0]))[1]


def runs_of(text: str) -> int:
    """The text's runs of three letters, as bits of one whole number."""
    padded, bits = f" {text} ", 0
    for start in range(len(padded) - _LETTERS + 1):
        bits |= 1 << crc32(padded[start : start + _LETTERS].encode()) % _BITS
    return bits


def similarity(left: int, right: int) -> float:
    """Share of the runs of both that are runs of each, from 0 to 1."""
    return (left & right).bit_count() / max((left | right).bit_count(), 1)
