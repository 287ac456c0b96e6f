"""Rows of a public data set, from a file on this machine or from the Hub."""

import gzip
import json
from pathlib import Path
from typing import Any

from plm.errors import DataError

Rows = list[dict[str, Any]]


def read_rows(
    path: str | None, split: str, fields: tuple[str, ...], *, hub: str, config: str | None = None
) -> Rows:
    """The rows of one split.

    Args:
        path: a .jsonl or .jsonl.gz, or a folder with <split>.jsonl; None: from the Hub.
        split: of the data set.
        fields: that every row must have as text.
        hub, config: its name there.
    Raises:
        DataError: the file, the row and what is wrong with it.
    """
    rows = _hub_rows(hub, config, split) if path is None else _file_rows(Path(path), split)
    where = hub if path is None else path
    if not rows:
        raise DataError(f"{where}: no rows")
    for number, row in enumerate(rows, start=1):
        for name in fields:
            if not isinstance(row, dict) or not isinstance(row.get(name), str):
                raise DataError(f"{where} row {number}: no field {name!r} with text")
    return rows


def _file_rows(path: Path, split: str) -> Rows:
    file = path.expanduser()
    if file.is_dir():
        found = sorted(file.glob(f"{split}.jsonl*"))
        if not found:
            raise DataError(f"{path}: the folder has no {split}.jsonl")
        file = found[0]
    try:
        opened = gzip.open if file.suffix == ".gz" else open
        with opened(file, "rt", encoding="utf-8") as stream:
            lines = stream.readlines()
    except (OSError, EOFError, UnicodeDecodeError) as error:
        said = getattr(error, "strerror", None) or error
        raise DataError(f"{file} cannot be read: {said}") from error
    rows = []
    for number, line in enumerate(lines, start=1):
        try:
            rows += [json.loads(line)] if line.strip() else []
        except ValueError as error:
            raise DataError(f"{file} line {number}: not JSON: {error}") from error
    return rows


def _hub_rows(hub: str, config: str | None, split: str) -> Rows:
    from datasets import load_dataset

    try:
        return list(load_dataset(hub, config, split=split))
    # datasets, fsspec, huggingface_hub and the network each raise kinds of their own.
    except (OSError, ValueError, RuntimeError, ConnectionError) as error:
        first = (str(error).splitlines() or [type(error).__name__])[0]
        raise DataError(
            f"{hub}, split {split}: cannot be loaded: {first}; the task's path=<.jsonl or folder> "
            "reads it from this machine"
        ) from error
