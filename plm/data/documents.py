"""What the parts of the data preparation share: documents, their origin, errors of the disk."""

import errno
import os
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from plm.data.tally import Tally
from plm.errors import DataError, Unfinished


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
        root: the file or folder that the documents' names are relative to; "": they stand alone.
    """

    items: Iterable[Any]
    read: Callable[[Any, Tally], Iterable[Document]]
    size: Callable[[Any], int]
    facts: dict[str, Any] = field(default_factory=dict)
    root: str = ""

    def __iter__(self) -> Iterator[Document]:
        """The documents, read here and now, one after another."""
        tally = Tally()
        for item in self.items:
            yield from self.read(item, tally)


def place(name: str, root: str) -> str:
    """Where a document is from, as an error says it: `talks/a.jsonl, row 7`.

    Args:
        name: of the document: a file's, and the row's number behind a colon where it has rows.
        root: see Origin.
    """
    if not root:
        return name
    file, colon, row = name.rpartition(":")
    rows = bool(colon) and row.isdecimal()
    path = Path(root).expanduser()
    path = path if path.is_file() else path / (file if rows else name)
    return f"{path}, row {row}" if rows else str(path)


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


@contextmanager
def disk_errors(path: Path) -> Iterator[None]:
    """Turn what the file system refuses into one line.

    Raises:
        Unfinished: the disk is full.
        DataError: writing is not permitted.
    """
    try:
        yield
    except OSError as error:
        if error.errno in (errno.ENOSPC, errno.EDQUOT):
            raise Unfinished(
                f"{error.filename or path}: the disk is full (or your quota is used up); free some "
                "space and run again: it goes on from there"
            ) from error
        if error.errno in (errno.EACCES, errno.EPERM, errno.EROFS):
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
