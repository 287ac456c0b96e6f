"""Conversations from .jsonl and .parquet, plain or compressed, or from the Hugging Face hub."""

import hashlib
from collections.abc import Mapping, Sequence
from functools import partial
from typing import Any

from plm.data.conversations import check, check_kind, parse
from plm.data.documents import Document, Origin
from plm.data.sources.rows import Rows, check_rows, of_files, of_hub


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
    return of_files(path, _rows(kind, bad_rows, fields), {"conversations": True})


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
    made = _rows(kind, bad_rows, fields)
    settings = {"config": config, "data_dir": data_dir, "revision": revision, "split": split}
    return of_hub(dataset, settings, max_bytes, streaming, made, {"conversations": True})


def group_of(messages: Sequence[Mapping[str, Any]]) -> str:
    """Equal questions are never on both sides of the split."""
    asked = next(m["content"] for m in messages if m["role"] == "user")
    return hashlib.sha256(asked.encode()).hexdigest()[:16]


def _rows(kind: str, bad_rows: str, fields: Any) -> Rows:
    check_kind(kind)
    example = "{prompt: question, completion: answer}"
    check_rows("conversations", bad_rows, fields, example)
    return Rows(partial(_make, kind=kind), bad_rows, fields)


def _make(row: Any, name: str, *, kind: str) -> list[Document]:
    talk = parse(row, kind)
    check(talk.messages)
    return [Document(talk.to_text(), name, group_of(talk.messages))]
