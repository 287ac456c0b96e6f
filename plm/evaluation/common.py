"""What all tasks share: items, their records, how ranks share them out, what a task gives back."""

import hashlib
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, NamedTuple, Protocol

from plm.evaluation.statistics import Figure

Record = dict[str, Any]
"""One item's outcome, as it is stored: `index`, `id`, `group`, and what the task says of it."""


class Share(NamedTuple):
    """Which items this process does: those whose index leaves `rank` when divided by `world`."""

    rank: int = 0
    world: int = 1

    def of(self, items: Sequence[Any]) -> list[tuple[int, Any]]:
        """This process's items with their indices."""
        return [(i, item) for i, item in enumerate(items) if i % self.world == self.rank]


@dataclass
class Part:
    """What one process found.

    Attributes:
        records: of its items.
        told: what concerns the task as a whole, such as another program's own figures.
    """

    records: list[Record] = field(default_factory=list)
    told: dict[str, Any] = field(default_factory=dict)


@dataclass
class Result:
    """A task on one model.

    Attributes:
        figures: by name; `accuracy/gcd` is `accuracy` of the group gcd.
        records: by index.
        settings: what must be the same for two results to be compared.
        digest: hash of the items themselves, hex.
        prompt: chat, text, or none where nothing is asked.
        notes: what a reader should know, one line each.
    """

    figures: dict[str, Figure]
    records: list[Record]
    settings: dict[str, Any]
    digest: str
    prompt: str
    notes: list[str] = field(default_factory=list)


class Task(Protocol):
    """A choice of configs/task."""

    def check(self, subject: Any) -> None:
        """Raise, in one line, what would stop `run`: missing data or packages."""

    def run(self, subject: Any, share: Share) -> Part:
        """Do this process's items."""

    def result(self, subject: Any, parts: list[Part]) -> Result:
        """Figures from the parts of all processes."""


def records_of(parts: list[Part]) -> list[Record]:
    """The records of all parts in the order of their items."""
    return sorted((r for part in parts for r in part.records), key=lambda r: r["index"])


def notes_of(parts: list[Part]) -> list[str]:
    """The notes that the parts tell, each once."""
    return list(dict.fromkeys(note for part in parts for note in part.told.get("notes", [])))


def counted(number: int, one: str) -> str:
    """A number with its word: 1 prompt, 2 prompts."""
    return f"{number} {one}" + "s" * (number != 1)


def digest_of(things: Any) -> str:
    """sha256, hex, of plain values."""
    text = json.dumps(things, sort_keys=True, ensure_ascii=False, default=str)
    return hashlib.sha256(text.encode("utf-8", "surrogatepass")).hexdigest()


def seed_of(seed: int, name: str) -> int:
    """Seed of one item, whatever else is evaluated beside it; below 2**62."""
    return int.from_bytes(hashlib.sha256(f"{seed}/{name}".encode()).digest()[:8], "big") >> 2


def by_group(records: Sequence[Record]) -> Mapping[str, list[Record]]:
    """Records by their group, in the order of first appearance."""
    found: dict[str, list[Record]] = {}
    for record in records:
        found.setdefault(record["group"], []).append(record)
    return found
