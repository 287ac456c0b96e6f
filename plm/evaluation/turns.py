"""Figures of answers and their refinements, and of independent answers beside them.

What an item says of each figure lies in its record as `values`, so that two results can be compared
item by item. Turn 0 is the answer to the question alone, turn j the j-th refinement.
"""

import math
from collections.abc import Sequence
from typing import Any

from plm.evaluation.common import Record, by_group, counted
from plm.evaluation.generated import BOOTSTRAP_SEED
from plm.evaluation.statistics import Figure, bootstrap, mcnemar, mean_of, ratio_of

Told = dict[str, list[Any]]
"""Of one item's answers, in their order: `correct`, `answers`, `cut`, `texts`, `tokens` (drawn),
`read` (tokens of the prompt); of turns also `copied`. Where turns could not be made, `correct` goes
on with that of the last one, and the others end."""


def values(turns: Told, others: Told | None) -> dict[str, float]:
    """What one item says of each figure.

    Args:
        turns: from turn 0 on.
        others: independent answers that go with turn 0; None: none were drawn.
    """
    right = turns["correct"]
    found: dict[str, float] = {}
    for turn in range(1, len(right)):
        found[f"turn_{turn}"] = float(right[turn])
        found[f"gain_{turn}"] = float(right[turn]) - right[0]
        found |= _flips("", turn, right[0], right[turn])
        if turn > 1:
            found |= _flips("step_", turn, right[turn - 1], right[turn])
        if turn < len(turns["texts"]):
            found[f"copy_{turn}"] = float(turns["copied"][turn])
            found[f"cut_{turn}"] = float(turns["cut"][turn])
    found["best_of_chain"] = float(any(right))
    if others is not None:
        for number, correct in enumerate(others["correct"], start=2):
            found[f"sample_{number}"] = float(correct)
        found["best_of_independent"] = float(right[0] or any(others["correct"]))
    for kind in ("tokens", "read"):
        first = sum(turns[kind][:1])
        found[f"{kind}/direct"] = float(first)
        found[f"{kind}/chain"] = float(sum(turns[kind]))
        if others is not None:
            found[f"{kind}/independent"] = float(first + sum(others[kind]))
    return found


def _flips(kind: str, turn: int, before: bool, now: bool) -> dict[str, float]:
    return {
        f"{kind}wrong_to_right_{turn}": float(now and not before),
        f"{kind}right_to_wrong_{turn}": float(before and not now),
    }


def figures(records: Sequence[Record]) -> dict[str, Figure]:
    """Every figure that some item has a value of, over the items that have one; of the turns also
    each group's; p-values last.

    Args:
        records: with `values`, `turns` and perhaps `independent`.
    """
    found: dict[str, Figure] = {}
    groups = by_group(records)
    # Items that were cut short lack some: the longest one has them in their order.
    longest = max(records, key=lambda r: len(r["values"]), default={"values": {}})
    for name in longest["values"]:
        figure = _difference if name.startswith("gain_") else _mean
        found[name] = figure(_of(records, name))
        if name.startswith("turn_") and len(groups) > 1:
            found |= {f"{name}/{group}": _mean(_of(some, name)) for group, some in groups.items()}
        if name.startswith("copy_"):
            turn = int(name.removeprefix("copy_"))
            found[f"length_ratio_{turn}"] = _lengths(records, turn)
    for name, (first, second) in pairs(records).items():
        found[f"p_{name}"] = _p(*alone(records, first, second), len(records))
    return found


def pairs(records: Sequence[Record]) -> dict[str, tuple[str, str]]:
    """Which two answers to the same items are tested against each other, by the figure's name."""
    known = {name for record in records for name in record["values"]}
    turns = sum(name.startswith("turn_") for name in known)
    found = {f"turn_{turn}": ("turn_0", f"turn_{turn}") for turn in range(1, turns + 1)}
    if "best_of_independent" in known:
        for turn in range(1, turns + 1):
            sample = f"sample_{turn + 1}"
            found[f"turn_{turn}_{sample}"] = (sample, f"turn_{turn}")
        found["best_of_chain"] = ("best_of_independent", "best_of_chain")
    return found


def alone(records: Sequence[Record], first: str, second: str) -> tuple[int, int]:
    """How many items the first alone has right, and the second alone."""
    both = [(_right(record, first), _right(record, second)) for record in records]
    return sum(a and not b for a, b in both), sum(b and not a for a, b in both)


def notes(records: Sequence[Record]) -> list[str]:
    """The tests in words, and what they cost."""
    found = []
    for first, second in pairs(records).values():
        only = alone(records, first, second)
        said = [name.replace("_", " ") for name in (second, first)]
        found.append(
            f"{said[0]} against {said[1]}: alone right on {only[1]} and {only[0]} items, "
            f"p = {mcnemar(*only):.3g} (McNemar, exact)"
        )
    short = sum(0 < len(r["turns"]["texts"]) < len(r["turns"]["correct"]) for r in records)
    if short:
        found.append(
            f"{counted(short, 'chain')} ended where the prompt with the answer shown left no room "
            "in the context: the last answer stands"
        )
    return found


def _right(record: Record, name: str) -> bool:
    if name == "turn_0":
        return bool(record["turns"]["correct"][0])
    return bool(record["values"][name])


def _of(records: Sequence[Record], name: str) -> list[float]:
    return [r["values"][name] for r in records if name in r["values"]]


def _mean(some: Sequence[float]) -> Figure:
    return mean_of(some, BOOTSTRAP_SEED)


def _difference(some: Sequence[float]) -> Figure:
    """Mean of paired differences, which may be of either sign where all of them are 0 or 1."""
    n = len(some)
    value = math.fsum(some) / n
    spread = math.fsum((one - value) ** 2 for one in some)
    error = math.sqrt(spread / (n - 1) / n) if n > 1 else math.nan
    # Resampling items that all agree says nothing of those that were not asked.
    low, high = bootstrap(some, BOOTSTRAP_SEED) if any(some) else (math.nan, math.nan)
    return Figure(value, error, low, high, n, "bootstrap")


def _lengths(records: Sequence[Record], turn: int) -> Figure:
    """Tokens of a turn over those of the turn before."""
    drawn = [r["turns"]["tokens"] for r in records if turn < len(r["turns"]["tokens"])]
    return ratio_of([some[turn] for some in drawn], [some[turn - 1] for some in drawn])


def _p(only_first: int, only_second: int, n: int) -> Figure:
    none = math.nan
    return Figure(mcnemar(only_first, only_second), none, none, none, n, "mcnemar")
