"""What the parts of the data preparation share: documents, their origin, where they wait."""

import errno
import mmap
import os
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NamedTuple

from plm.data.tally import Tally
from plm.errors import DataError


@dataclass(frozen=True)
class Document:
    """One text.

    Attributes:
        text: the text, newlines as they came.
        name: unique within its source, for example "torch/nn/modules/linear.py".
        group: what the split never divides, for example "torch".
    """

    text: str
    name: str
    group: str


Step = Callable[..., Iterator[Document]]
"""`(documents, *, tally) -> documents`, the settings bound beforehand."""


@dataclass
class Origin:
    """Where a source's documents come from: a list of items, and how to read one.

    Attributes:
        items: in the documents' order; picklable, and cheap to list.
        read: `(item, tally) -> documents`, picklable, run in any process.
        size: `(item) -> bytes`, roughly; items are handed out in portions of a like size.
        facts: what the manifest records: licences, versions, what was missing.
    """

    items: Iterable[Any]
    read: Callable[[Any, Tally], Iterable[Document]]
    size: Callable[[Any], int]
    facts: dict[str, Any] = field(default_factory=dict)

    def __iter__(self) -> Iterator[Document]:
        """The documents, read here and now, one after another."""
        tally = Tally()
        for item in self.items:
            yield from self.read(item, tally)


def as_it_is(item: Document, tally: Tally) -> tuple[Document, ...]:
    """The `read` of an origin whose items are documents already."""
    return (item,)


def text_size(item: Document) -> int:
    """The `size` of an origin whose items are documents already: characters."""
    return len(item.text)


def per_document(step: Step) -> Step:
    """Mark a step that looks at one document at a time: it may run in any worker, in portions."""
    step.per_document = True  # type: ignore[attr-defined]
    return step


def is_per_document(step: Step) -> bool:
    """Whether the step, or the function inside the partial, is marked."""
    return getattr(getattr(step, "func", step), "per_document", False)


def step_name(step: Step) -> str:
    """What the manifest calls a step."""
    return getattr(step, "func", step).__name__


class Entry(NamedTuple):
    """A stretch of a text store: `length` bytes from byte `start`, part of document `name`."""

    start: int
    length: int
    name: str
    group: str


class TextStore:
    """Cleaned documents of one source in one file, so that no corpus has to fit in memory."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.entries: list[Entry] = []
        self.n_bytes = 0

    def fill(self, documents: Iterable[Document]) -> None:
        """Write the documents' UTF-8 one after another; an empty one is left out."""
        with disk_errors(self.path), open(self.path, "wb") as file:
            for document in documents:
                data = document.text.encode("utf-8", errors="strict")
                if not data:
                    continue
                name = " ".join(document.name.split())
                self.entries.append(Entry(self.n_bytes, len(data), name, document.group))
                self.n_bytes += len(data)
                file.write(data)

    def texts(self, entries: Iterable[Entry]) -> Iterator[str]:
        """The stretches' text, in the order asked for."""
        with opened(self.path) as data:
            for entry in entries:
                yield data[entry.start : entry.start + entry.length].decode()


@contextmanager
def opened(path: Path) -> Iterator[Any]:
    """The file's bytes, mapped; an empty file gives empty bytes."""
    if path.stat().st_size == 0:
        yield b""
        return
    with open(path, "rb") as file, mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as data:
        yield data


@contextmanager
def disk_errors(path: Path) -> Iterator[None]:
    """Turn what the file system refuses into one line.

    Raises:
        DataError: the disk is full, or writing is not permitted.
    """
    try:
        yield
    except OSError as error:
        if error.errno in (errno.ENOSPC, errno.EDQUOT):
            reason = "the disk is full (or your quota is used up); free some space and run again"
        elif error.errno in (errno.EACCES, errno.EPERM, errno.EROFS):
            reason = "no permission to write there; choose another folder"
        elif error.errno in (errno.ENOTDIR, errno.ENOENT, errno.EEXIST, errno.EISDIR):
            reason = f"{error.strerror}; check the path or choose another folder"
        else:
            raise
        raise DataError(f"{error.filename or path}: {reason}") from error


def sync(*paths: Path) -> None:
    """Make files, or the names in folders, survive a power cut, where the system can do that."""
    if os.name != "posix":
        return
    for path in paths:
        descriptor = os.open(path, os.O_RDONLY)
        try:
            os.fsync(descriptor)
        finally:
            os.close(descriptor)
