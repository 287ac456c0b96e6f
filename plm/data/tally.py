"""What a step of the preparation did: documents left out or changed, by reason, with examples."""

from collections import Counter
from collections.abc import Mapping
from typing import Any

EXAMPLES = 3
"""Documents shown of each reason: the first ones, so that the number of workers plays no part."""

EXCERPT = 300
"""Characters shown of one."""


class Tally:
    """Counts of one step.

    Attributes:
        dropped: documents left out, by reason.
        lost: characters of the documents left out, by reason.
        changed: places changed in documents that stay, by reason.
        examples: by reason, (document's name, beginning of its text).
        why: by reason, what was said of the first document left out, where something was.
    """

    def __init__(self) -> None:
        self.dropped: Counter[str] = Counter()
        self.lost: Counter[str] = Counter()
        self.changed: Counter[str] = Counter()
        self.examples: dict[str, list[tuple[str, str]]] = {}
        self.why: dict[str, str] = {}

    def __bool__(self) -> bool:
        return bool(self.dropped or self.changed)

    def drop(self, reason: str, name: str, text: str = "", why: str = "") -> None:
        """A document is left out.

        Args:
            reason: a few words, the same for all documents that it holds for.
            name: of the document.
            text: of the document.
            why: what is wrong with it; shown before the text.
        """
        if why and not self.dropped[reason]:
            self.why[reason] = why
        self.dropped[reason] += 1
        self.lost[reason] += len(text)
        self._show(reason, name, f"{why}; {text}" if why else text)

    def change(self, reason: str, name: str, text: str, places: int = 1) -> None:
        """A document stays, changed at so many places; `text` shows one of them."""
        self.changed[reason] += places
        self._show(reason, name, text)

    def _show(self, reason: str, name: str, text: str) -> None:
        shown = self.examples.setdefault(reason, [])
        if len(shown) < EXAMPLES:
            shown.append((name, text[:EXCERPT]))

    def add(self, other: "Tally") -> None:
        """Add the counts of documents that came after those of this tally."""
        self.why |= {r: why for r, why in other.why.items() if not self.dropped[r]}
        self.dropped.update(other.dropped)
        self.lost.update(other.lost)
        self.changed.update(other.changed)
        for reason, shown in other.examples.items():
            self.examples[reason] = [*self.examples.get(reason, []), *shown][:EXAMPLES]

    def plain(self) -> dict[str, Any]:
        """As plain data, for JSON."""
        return {
            "dropped": dict(self.dropped),
            "lost": dict(self.lost),
            "changed": dict(self.changed),
            "examples": self.examples,
            "why": self.why,
        }

    @classmethod
    def of(cls, plain: Mapping[str, Any]) -> "Tally":
        """From what `plain` gave."""
        tally = cls()
        tally.dropped.update(plain["dropped"])
        tally.lost.update(plain["lost"])
        tally.changed.update(plain["changed"])
        tally.examples = {k: [tuple(e) for e in v] for k, v in plain["examples"].items()}
        tally.why = dict(plain["why"])
        return tally


Tallies = dict[str, Tally]
"""Tallies of a source by step; "read" is the origin's own."""
