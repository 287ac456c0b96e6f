"""The user's own text: a file or a folder of .txt, .md, .jsonl or .parquet, plain or gzipped."""

import gzip
import io
import json
import zlib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from plm.data.documents import Document, Origin, as_it_is, text_size
from plm.errors import DataError

PLAIN = (".txt", ".md")
KINDS = (*PLAIN, ".jsonl", ".parquet")


def files(path: str, *, fields: list[str] | None = None) -> Origin:
    """Every text under a path.

    Args:
        path: a file, or a folder that is searched to its depths, in sorted order.
        fields: what to take from a row of .jsonl or .parquet, joined by an empty line; "text".
    Raises:
        DataError: the path is missing, or holds no file of a known kind; and, on reading, a file
            that is empty, cut off, not UTF-8, or has a row without the fields.
    """
    found = list_files(path)
    facts = {"files": {name: file.stat().st_size for file, name in found}}
    return Origin(_documents(found, fields or ["text"]), as_it_is, text_size, facts)


def list_files(path: str | Path) -> list[tuple[Path, str]]:
    """Files of a known kind under a path, with their names relative to it, sorted by name.

    Raises:
        DataError: the path is missing, or holds none.
    """
    root = Path(path).expanduser()
    known = ", ".join(KINDS)
    if root.is_file():
        if _kind(root) not in KINDS:
            raise DataError(f"{root}: cannot read this kind of file; known: {known} (also .gz)")
        return [(root, root.name)]
    if not root.is_dir():
        raise DataError(f"{root}: no such file or folder")
    found = sorted(
        (file.relative_to(root).as_posix(), file)
        for file in root.rglob("*")
        if file.is_file() and _kind(file) in KINDS and not file.name.startswith(".")
    )
    if not found:
        raise DataError(f"{root}: no file to read in this folder; known: {known} (also .gz)")
    return [(file, name) for name, file in found]


def _kind(file: Path) -> str:
    return Path(file.name.lower().removesuffix(".gz")).suffix


def _documents(found: list[tuple[Path, str]], fields: list[str]) -> Iterator[Document]:
    readers = {".jsonl": _jsonl, ".parquet": _parquet}
    some = False
    for file, name in found:
        for document in readers.get(_kind(file), _plain)(file, name, fields):
            some = some or bool(document.text.strip())
            yield document
    if not some:
        names = ", ".join(str(file) for file, _ in found[:3])
        raise DataError(f"{names}: empty; there is no text to train on")


def _content(file: Path) -> bytes:
    try:
        if file.name.lower().endswith(".gz"):
            with gzip.open(file, "rb") as stream:
                return stream.read()
        return file.read_bytes()
    except (EOFError, gzip.BadGzipFile, zlib.error) as error:
        raise DataError(
            f"{file}: gzip data is cut off or damaged ({error}); copy the file again"
        ) from error
    except OSError as error:
        raise DataError(f"{file}: cannot be read: {error.strerror or error}") from error


def _decode(data: bytes, where: str) -> str:
    try:
        return data.decode("utf-8")
    except UnicodeDecodeError as error:
        raise DataError(
            f"{where}: not UTF-8 at byte {error.start} (0x{data[error.start]:02x}); convert it, "
            "for example with iconv -f latin1 -t utf-8"
        ) from error


def _plain(file: Path, name: str, fields: list[str]) -> Iterator[Document]:
    yield Document(_decode(_content(file), str(file)), name, name)


def _jsonl(file: Path, name: str, fields: list[str]) -> Iterator[Document]:
    for number, line in enumerate(io.BytesIO(_content(file)), start=1):
        if not line.strip():
            continue
        where = f"{file}, row {number}"
        try:
            row = json.loads(_decode(line, where))
        except json.JSONDecodeError as error:
            raise DataError(f"{where}: not JSON: {error.msg} at column {error.colno}") from error
        yield _row(row, fields, where, f"{name}:{number}")


def _parquet(file: Path, name: str, fields: list[str]) -> Iterator[Document]:
    import pyarrow
    import pyarrow.parquet

    number = 0
    try:
        source = io.BytesIO(_content(file)) if file.name.lower().endswith(".gz") else file
        table = pyarrow.parquet.ParquetFile(source)
        columns = [field for field in fields if field in table.schema_arrow.names]
        names = table.schema_arrow.names
        for batch in table.iter_batches(columns=columns):
            for row in batch.to_pylist():
                number += 1
                row = row if len(columns) == len(fields) else dict.fromkeys(names)
                yield _row(row, fields, f"{file}, row {number}", f"{name}:{number}")
    except (pyarrow.ArrowException, OSError) as error:
        first = str(error).splitlines()[0]
        raise DataError(f"{file}, after row {number}: not readable Parquet: {first}") from error


def _row(row: Any, fields: list[str], where: str, name: str) -> Document:
    if not isinstance(row, dict):
        raise DataError(f"{where}: a row must be an object with {', '.join(fields)}")
    for field in fields:
        if not isinstance(row.get(field), str):
            what = "is not text" if row.get(field) is not None else "is missing"
            raise DataError(
                f"{where}: field {field!r} {what}; the row has {', '.join(map(str, row)) or 'none'}"
                " (name the right ones as `fields` of the origin, in a copy of the recipe)"
            )
    return Document("\n\n".join(row[field] for field in fields), name, name)
