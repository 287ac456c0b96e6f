"""Conversations from .jsonl and .parquet, plain or compressed, or from the Hugging Face hub."""

import hashlib
import json
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import partial
from typing import Any, NamedTuple

from plm.data.conversations import BadConversation, Conversation, check, check_kind, parse
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


def conversations(
    path: str,
    *,
    kind: str = "auto",
    bad_rows: str = "skip",
    fields: dict[str, str] | None = None,
) -> Origin:
    """Every conversation under a path; a source with it also says `conversations: true`.

    Args:
        path: a .jsonl or .parquet file, or a folder that is searched for them to its depths.
        kind: how a row holds a conversation, see `plm.data.conversations.parse`.
        bad_rows: skip counts what is no conversation and leaves it out; error stops there.
        fields: what a row calls what a form names otherwise, such as {prompt: question}.
    Raises:
        ConfigError: a setting that is not known.
        DataError: the path is missing, or holds no such file; and, on reading, a file that cannot
            be read, or, with bad_rows=error, its first bad row.
    """
    _check(kind, bad_rows, fields)
    found = list_files(path, TABLES)
    facts = {"files": {name: file.stat().st_size for file, name in found}}
    if not any(facts["files"].values()):
        raise DataError(f"{', '.join(str(f) for f, _ in found[:3])}: empty; there is no row")
    read = partial(_read_part, make=_Maker(kind, bad_rows, fields))
    facts = {**facts, "conversations": True}
    return Origin(Parts(found), read, lambda item: item.size, facts, root=path)


def hub_conversations(
    dataset: str,
    *,
    revision: str,
    config: str | None = None,
    data_dir: str | None = None,
    split: str = "train",
    kind: str = "auto",
    bad_rows: str = "skip",
    fields: dict[str, str] | None = None,
    max_bytes: int,
    streaming: bool = True,
) -> Origin:
    """The first conversations of a data set of the hub.

    Args:
        dataset, revision, config, data_dir, split, streaming: as for `hub.hub`.
        kind, bad_rows, fields: as for `conversations`.
        max_bytes: of rows as JSON, after which reading stops.
    Raises:
        ConfigError: a setting that is not known.
        Unfinished: on reading: the set cannot be opened or read on.
        DataError: on reading, with bad_rows=error: the first bad row.
    """
    _check(kind, bad_rows, fields)
    facts = {"config": config, "data_dir": data_dir, "revision": revision, "split": split}
    rows = _HubRows(dataset, {**facts, "streaming": streaming}, max_bytes)
    read = partial(_read_row, make=_Maker(kind, bad_rows, fields))
    facts = {"dataset": dataset, **facts, "conversations": True}
    return Origin(rows, read, lambda item: item.size, facts)


def _check(kind: str, bad_rows: str, fields: Any) -> None:
    check_kind(kind)
    if bad_rows not in BAD_ROWS:
        raise ConfigError(f"conversations: bad_rows={bad_rows}: one of {', '.join(BAD_ROWS)}")
    if fields is not None and not isinstance(fields, dict):
        raise ConfigError(
            f"conversations: fields={fields} must say what a row calls it, such as "
            "{prompt: question, completion: answer}"
        )


@dataclass(frozen=True)
class _Maker:
    """Documents of rows, and what becomes of the ones that are none."""

    kind: str
    bad_rows: str
    fields: dict[str, str] | None

    def document(
        self, read: Callable[[], Any], where: str, name: str, tally: Tally
    ) -> Document | None:
        """The conversation of a row, or None for one that is counted instead.

        Args:
            read: gives the row.
            where: file and row, for an error.
            name: of the document.
            tally: counts what is left out.
        """
        row = None
        try:
            row = _read(read)
            talk = parse(self._named(row), self.kind)
            check(talk.messages)
        except BadConversation as error:
            if self.bad_rows == "error":
                raise DataError(f"{where}: {error}") from error
            shown = "" if row is None else json.dumps(row, default=str)
            tally.drop(error.reason, name, shown, why=str(error))
            return None
        return Document(talk.to_text(), name, _group(talk))

    def _named(self, row: Any) -> Any:
        if not self.fields or not isinstance(row, dict):
            return row
        return {**row, **{ours: row.get(theirs) for ours, theirs in self.fields.items()}}


def _read(read: Callable[[], Any]) -> Any:
    try:
        return read()
    except BadConversation:
        raise
    except DataError as error:
        # Where it lies is said by the caller.
        raise BadConversation("unreadable row", str(error).removeprefix(": ")) from error


def _group(talk: Conversation) -> str:
    """Equal questions are never on both sides of the split."""
    asked = next(m["content"] for m in talk.messages if m["role"] == "user")
    return hashlib.sha256(asked.encode()).hexdigest()[:16]


def _read_part(item: Lines | Whole, tally: Tally, *, make: _Maker) -> Iterator[Document]:
    for number, read in _rows(item):
        where, name = f"{item.path}, row {number}", f"{item.name}:{number}"
        if (document := make.document(read, where, name, tally)) is not None:
            yield document


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


def _read_row(item: _HubRow, tally: Tally, *, make: _Maker) -> Iterator[Document]:
    where = f"{item.dataset}, row {item.number}"
    name = f"{item.dataset}/{item.split}/{item.number}"
    document = make.document(partial(_without_none, item.row), where, name, tally)
    if document is not None:
        yield document
