"""Which of a round's chains a page shows: some of every kind, the same ones every time."""

import random
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field

from plm.rounds.common import Answer, Sampled
from plm.rounds.statistics import copied, finite

KINDS = ("gained", "lost", "copied", "same", "unrefined", "unscored")
"""What a chain can hold: an answer that scores above the one it was shown, or below; one that is
what it was shown; words changed and all scores equal; no refinement; a score that is missing."""


@dataclass
class Shown:
    """A row of the page.

    Attributes:
        sampled: the prompt.
        answers: of it, side by side: a chain, or all answers where none refines another.
        kinds: of KINDS, what it holds.
    """

    sampled: Sampled
    answers: list[Answer]
    kinds: list[str] = field(default_factory=list)


def rows_of(sampled: Sampled) -> list[Shown]:
    """A prompt's chains; its answers in one row where none refines another."""
    if any(answer.turn for answer in sampled.answers):
        return [Shown(sampled, chain, kinds_of(sampled, chain)) for chain in sampled.chains()]
    return [Shown(sampled, sampled.answers, kinds_of(sampled, sampled.answers))]


def kinds_of(sampled: Sampled, answers: list[Answer]) -> list[str]:
    """What happens in a chain, at least one of KINDS."""
    found = set()
    for answer in answers:
        if not finite(answer.score):
            found.add("unscored")
        if answer.shown is None:
            continue
        shown = sampled.answers[answer.shown]
        if copied(answer, shown):
            found.add("copied")
        if finite(answer.score) and finite(shown.score) and answer.score != shown.score:
            found.add("gained" if answer.score > shown.score else "lost")
    if all(answer.shown is None for answer in answers):
        found.add("unrefined")
    return [kind for kind in KINDS if kind in found] or ["same"]


class Choice:
    """Keeps up to `number` rows of each kind while prompts pass by, drawn evenly.

    Args:
        number: rows in all.
        seed: of the draw, which knows nothing else but the prompts.
    """

    def __init__(self, number: int, seed: int = 0) -> None:
        self.number, self._random = number, random.Random(seed)
        self.counts = dict.fromkeys(KINDS, 0)
        self.rows = 0
        self._kept: dict[str, list[tuple[int, Shown]]] = {kind: [] for kind in KINDS}

    def passing(self, sampled: Iterable[Sampled]) -> Iterator[Sampled]:
        """The same prompts, looked at."""
        for one in sampled:
            for row in rows_of(one):
                self._see(row)
            yield one

    def _see(self, row: Shown) -> None:
        for kind in row.kinds:
            kept, seen = self._kept[kind], self.counts[kind]
            self.counts[kind] += 1
            # A reservoir: each row so far is among the kept ones with the same chance.
            place = seen if seen < self.number else self._random.randint(0, seen)
            if place < self.number:
                kept[place : place + 1] = [(self.rows, row)]
        self.rows += 1

    def chosen(self) -> list[Shown]:
        """At most `number` rows, of every kind in turn, in the order in which they came."""
        found: dict[int, Shown] = {}
        waiting = [self._random.sample(kept, len(kept)) for kept in self._kept.values()]
        while any(waiting) and len(found) < self.number:
            for kept in waiting:
                while kept:
                    order, row = kept.pop()
                    if order not in found:
                        found[order] = row
                        break
                if len(found) == self.number:
                    break
        return [found[order] for order in sorted(found)]
