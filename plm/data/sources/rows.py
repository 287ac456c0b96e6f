"""Rows of .jsonl, .parquet or the Hugging Face hub, each made into one document or several.

What is no row of the wanted form is counted with its reason, or ends the reading.
"""

import json
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import partial
from typing import Any, NamedTuple

from plm.data.conversations import BadConversation
from plm.data.documents import Document, Origin
from plm.data.recipe import BAD_ROWS
from plm.data.sources.files import (
    TABLES,
    Lines,
    Parts,
    Whole,
    lines_of,
    list_files,
    read_json,
    table_rows,
)
from plm.data.sources.hub import stream
from plm.data.tally import Tally
from plm.errors import ConfigError, DataError

Make = Callable[[Any, str], list[Document]]
"""`(row, name) -> documents`, picklable; raises BadConversation for a row that is none."""


@dataclass(frozen=True)
class Rows:
    """Documents of rows, and what becomes of the ones that are none.

    Attributes:
        make: what a row becomes.
        bad_rows: skip counts what is no row of the form and leaves it out; error stops there.
        fields: what a row calls what a form names otherwise.
    """

    make: Make
    bad_rows: str
    fields: dict[str, str] | None

    def documents(
        self, read: Callable[[], Any], where: str, name: str, tally: Tally
    ) -> list[Document]:
        """What a row becomes; nothing, where it is counted instead.

        Args:
            read: gives the row.
            where: file and row, for an error.
            name: of the row.
            tally: counts what is left out.
        """
        row = None
        try:
            row = _read(read)
            return self.make(self._named(row), name)
        except BadConversation as error:
            if self.bad_rows == "error":
                raise DataError(f"{where}: {error}") from error
            shown = "" if row is None else json.dumps(row, default=str)
            tally.drop(error.reason, name, shown, why=str(error))
            return []

    def _named(self, row: Any) -> Any:
        if not self.fields or not isinstance(row, dict):
            return row
        return {**row, **{ours: row.get(theirs) for ours, theirs in self.fields.items()}}


def check_rows(what: str, bad_rows: str, fields: Any, example: str) -> None:
    """Raise ConfigError for settings that are not known.

    Args:
        what: the origin, as errors call it.
        bad_rows, fields: see `Rows`.
        example: of fields.
    """
    if bad_rows not in BAD_ROWS:
        raise ConfigError(f"{what}: bad_rows={bad_rows}: one of {', '.join(BAD_ROWS)}")
    if fields is not None and not isinstance(fields, dict):
        raise ConfigError(
            f"{what}: fields={fields} must say what a row calls it, such as {example}"
        )


def of_files(path: str, rows: Rows, facts: dict[str, Any]) -> Origin:
    """The rows of all files under a path.

    Args:
        path: a .jsonl or .parquet file, or a folder that is searched for them to its depths.
        rows: what becomes of them.
        facts: what else the manifest records.
    Raises:
        DataError: the path is missing, or holds no such file; and, on reading, a file that cannot
            be read, or, with bad_rows=error, its first bad row.
    """
    found = list_files(path, TABLES)
    sizes = {name: file.stat().st_size for file, name in found}
    if not any(sizes.values()):
        raise DataError(f"{', '.join(str(f) for f, _ in found[:3])}: empty; there is no row")
    read = partial(_read_part, rows=rows)
    return Origin(Parts(found), read, lambda item: item.size, {"files": sizes, **facts}, root=path)


def of_hub(
    dataset: str,
    settings: dict[str, Any],
    max_bytes: int,
    streaming: bool,
    rows: Rows,
    facts: dict[str, Any],
) -> Origin:
    """The first rows of a data set of the hub.

    Args:
        dataset: see `hub.hub`.
        settings: config, data_dir, revision and split, likewise.
        max_bytes: of rows as JSON, after which reading stops.
        streaming: see `hub.hub`.
        rows: what becomes of them.
        facts: what else the manifest records.
    Raises:
        Unfinished: on reading: the set cannot be opened or read on.
        DataError: on reading, with bad_rows=error: the first bad row.
    """
    listed = _HubRows(dataset, {**settings, "streaming": streaming}, max_bytes)
    read = partial(_read_row, rows=rows)
    return Origin(listed, read, lambda item: item.size, {"dataset": dataset, **settings, **facts})


def _read(read: Callable[[], Any]) -> Any:
    try:
        return read()
    except BadConversation:
        raise
    except DataError as error:
        # Where it lies is said by the caller.
        raise BadConversation("unreadable row", str(error).removeprefix(": ")) from error


def _read_part(item: Lines | Whole, tally: Tally, *, rows: Rows) -> Iterator[Document]:
    for number, read in _rows(item):
        where, name = f"{item.path}, row {number}", f"{item.name}:{number}"
        yield from rows.documents(read, where, name, tally)


def _rows(item: Lines | Whole) -> Iterator[tuple[int, Callable[[], Any]]]:
    if isinstance(item, Lines):
        for number, line in lines_of(item):
            yield number, partial(read_json, line, "")
    else:
        for number, row in table_rows(item):
            yield number, partial(_without_none, row)


def _without_none(value: Any) -> Any:
    """A table gives every row the keys of all rows: those that a row did not have are None."""
    if isinstance(value, dict):
        return {key: _without_none(item) for key, item in value.items() if item is not None}
    return [_without_none(item) for item in value] if isinstance(value, list) else value


class _HubRow(NamedTuple):
    number: int
    row: dict[str, Any]
    dataset: str
    split: str
    size: int


@dataclass(frozen=True)
class _HubRows:
    """The rows, read anew whenever they are asked for."""

    dataset: str
    settings: dict[str, Any]
    max_bytes: int

    def __iter__(self) -> Iterator[_HubRow]:
        left, split = self.max_bytes, self.settings["split"]
        for number, row in stream(self.dataset, self.settings):
            size = len(json.dumps(row, ensure_ascii=False, default=str).encode("utf-8", "replace"))
            yield _HubRow(number, row, self.dataset, split, size)
            left -= size
            if left <= 0:
                return


def _read_row(item: _HubRow, tally: Tally, *, rows: Rows) -> Iterator[Document]:
    where = f"{item.dataset}, row {item.number}"
    name = f"{item.dataset}/{item.split}/{item.number}"
    yield from rows.documents(partial(_without_none, item.row), where, name, tally)
