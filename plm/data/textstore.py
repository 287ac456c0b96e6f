"""Where cleaned documents wait: a file of text a source, so that memory need not hold them."""

import os
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, NamedTuple

from plm.data.documents import Document, disk_errors
from plm.data.journal import Journal
from plm.data.tally import Tallies, Tally
from plm.errors import DataError

_PART = 4_000_000
_BLOCK = 1 << 16


class Entry(NamedTuple):
    """A stretch of a text store: `length` bytes from byte `start`, part of document `name`."""

    start: int
    length: int
    name: str
    group: str


class Portion(NamedTuple):
    """Documents on their way to a store.

    Attributes:
        text: their UTF-8, one after another.
        documents: (length in bytes, name, group) of each.
        tallies: what the steps told while these were made.
    """

    text: bytes
    documents: list[tuple[int, str, str]]
    tallies: dict[str, Any]

    @classmethod
    def of(cls, documents: Iterable[Document], tallies: Tallies) -> "Portion":
        """Encode documents; empty ones are left out."""
        parts: list[bytes] = []
        listed = []
        for document in documents:
            try:
                data = document.text.encode("utf-8")
            except UnicodeEncodeError as error:
                raise DataError(
                    f"{_plain(document.name)}: character {error.start} is half of a surrogate pair "
                    f"({document.text[error.start]!r}), which no UTF-8 can hold; mend or drop the "
                    "document"
                ) from error
            if data:
                parts.append(data)
                name = " ".join(_plain(document.name).split())
                listed.append((len(data), name, _plain(document.group)))
        # The tallies are whole once the documents have run out.
        return cls(b"".join(parts), listed, {name: t.plain() for name, t in tallies.items()})

    def texts(self) -> Iterator[str]:
        """The documents' texts."""
        start = 0
        for length, _, _ in self.documents:
            yield self.text[start : start + length].decode()
            start += length


def _plain(name: str) -> str:
    """A name that UTF-8 can hold: that of a file may not be."""
    return name.encode("utf-8", "backslashreplace").decode()


class TextStore:
    """Documents of one source.

    A store that a killed process left is opened with the portions that it had taken whole.

    Args:
        path: of the text; what it holds is noted in `<path>.journal`.

    Attributes:
        entries: one a document, in the order they came.
        n_bytes: of text.
        portions: taken so far.
        tallies: of all portions together, by step.
        complete: nothing more will come.
    """

    def __init__(self, path: Path) -> None:
        self.path = Path(path)
        self.entries: list[Entry] = []
        self.n_bytes = self.portions = 0
        self.tallies: Tallies = {}
        self.complete = False
        self._journal = Journal(self.path.with_name(self.path.name + ".journal"))
        size = self.path.stat().st_size if self.path.exists() else 0
        for record in self._journal.records:
            self._note(record)
        self._journal.records.clear()
        with disk_errors(self.path):
            self._file = open(self.path, "ab")  # noqa: SIM115
        if size < self.n_bytes:
            # The system lost what the journal tells of, as in a power cut: begin anew.
            self.restart()
        elif self.complete:
            self._close()
        else:
            with disk_errors(self.path):
                self._file.truncate(self.n_bytes)

    def _note(self, record: dict[str, Any]) -> None:
        if record == "complete":
            self.complete = True
            return
        for length, name, group in record["documents"]:
            # Often the same text: kept once.
            group = name if group == name else group
            self.entries.append(Entry(self.n_bytes, length, name, group))
            self.n_bytes += length
        for step, plain in record["tallies"].items():
            self.tallies.setdefault(step, Tally()).add(Tally.of(plain))
        self.portions += 1

    def take(self, portion: Portion) -> None:
        """Append a portion."""
        with disk_errors(self.path):
            self._file.write(portion.text)
            self._file.flush()
        record = {"documents": portion.documents, "tallies": portion.tallies}
        self._journal.add(record)
        # What was noted is read back from the store alone.
        self._journal.records.clear()
        self._note(record)

    def finish(self) -> None:
        """Nothing more will come."""
        self._journal.add("complete")
        self._journal.records.clear()
        self.complete = True
        self._close()

    def _close(self) -> None:
        self._journal.close()
        with disk_errors(self.path):
            self._file.close()

    def fill(self, documents: Iterable[Document], tallies: Callable[[], Tallies]) -> None:
        """Take all documents and finish.

        Args:
            documents: in order.
            tallies: what the steps have told, once the documents have run out.
        """
        waiting: list[Document] = []
        size = 0
        for document in documents:
            waiting.append(document)
            size += len(document.text)
            if size >= _PART:
                self.take(Portion.of(waiting, {}))
                waiting, size = [], 0
        self.take(Portion.of(waiting, tallies()))
        self.finish()

    def restart(self) -> None:
        """Forget what an unfinished try has left."""
        self._journal.clear()
        self.entries.clear()
        self.tallies.clear()
        self.n_bytes = self.portions = 0
        self.complete = False
        with disk_errors(self.path):
            self._file.truncate(0)

    def remove(self) -> None:
        """Delete the store; its entries and tallies stay as they are here."""
        self._journal.remove()
        self._file.close()
        self.path.unlink()

    def texts(self, entries: Iterable[Entry]) -> Iterator[str]:
        """The stretches' text, in the order asked for."""
        yield from read_texts(self.path, entries)

    def documents(self) -> Iterator[Document]:
        """All documents so far."""
        for entry, text in zip(self.entries, self.texts(self.entries), strict=True):
            yield Document(text, entry.name, entry.group)


def read_texts(path: Path, entries: Iterable[Entry]) -> Iterator[str]:
    """Stretches of a store's file, in the order asked for."""
    with opened(path) as data:
        for entry in entries:
            yield data.read(entry.start, entry.length).decode()


class TextFile:
    """A store's file for reading, without ever holding or mapping more of it than is asked for.

    A map would count as this process's memory for as long as it lasts.
    """

    def __init__(self, file: Any, size: int) -> None:
        self._descriptor, self._size = file.fileno(), size

    def __len__(self) -> int:
        return self._size

    def read(self, start: int, length: int) -> bytes:
        """`length` bytes from byte `start` on."""
        parts = []
        while length > 0 and (part := os.pread(self._descriptor, length, start)):
            parts.append(part)
            start, length = start + len(part), length - len(part)
        return b"".join(parts)

    def find(self, byte: bytes, start: int, stop: int) -> int:
        """The first place of one byte in [start, stop), or -1."""
        while start < stop:
            part = self.read(start, min(_BLOCK, stop - start))
            if (found := part.find(byte)) >= 0:
                return start + found
            start += max(1, len(part))
        return -1


@contextmanager
def opened(path: Path) -> Iterator[TextFile]:
    """The file, for reading."""
    with open(path, "rb") as file:
        yield TextFile(file, os.fstat(file.fileno()).st_size)
