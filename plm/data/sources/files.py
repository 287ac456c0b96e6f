"""Local files: .txt, .md, .jsonl or .parquet, plain or compressed, one or a folder of them."""

import bz2
import gzip
import io
import json
import lzma
import mmap
import zlib
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

from plm.data.documents import Document, Origin
from plm.data.tally import Tally
from plm.errors import ConfigError, DataError

PLAIN = (".txt", ".md")
TABLES = (".jsonl", ".parquet")
KINDS = (*PLAIN, *TABLES)
PACKED: dict[str, Callable[..., Any]] = {".gz": gzip.open, ".bz2": bz2.open, ".xz": lzma.open}
_ZSTD = ".zst"

_PART = 4_000_000
"""Bytes of rows handed to a worker at once."""

_GROUP_PART = 16_000_000
"""Bytes of a Parquet row group handed to a worker at once; larger groups are read in parts."""


class Whole(NamedTuple):
    """A whole file: one document; or rows of a Parquet row group, where `group` is given."""

    path: str
    name: str
    size: int
    group: int | None = None
    first_row: int = 1
    skip: int = 0
    rows: int = 0


class Lines(NamedTuple):
    """Lines of a .jsonl file: `data` itself, or bytes [start, stop) of the file."""

    path: str
    name: str
    start: int
    stop: int
    first_row: int
    data: bytes | None = None

    @property
    def size(self) -> int:
        return self.stop - self.start


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
    if not any(facts["files"].values()):
        names = ", ".join(str(file) for file, _ in found[:3])
        raise DataError(f"{names}: empty; there is no text to train on")
    read = partial(_read, fields=fields or ["text"])
    return Origin(Parts(found), read, lambda item: item.size, facts, root=path)


class Parts:
    """The parts that workers read, made anew whenever they are asked for.

    Args:
        found: of `list_files`.
    """

    def __init__(self, found: list[tuple[Path, str]]) -> None:
        self.found = found

    def __iter__(self) -> Iterator[Whole | Lines]:
        for file, name in self.found:
            kind = kind_of(file)
            if kind == ".jsonl":
                yield from (_packed_rows if _packing(file) else _row_ranges)(file, name)
            elif kind == ".parquet":
                yield from _row_groups(file, name)
            else:
                yield Whole(str(file), name, file.stat().st_size)


def list_files(path: str | Path, kinds: tuple[str, ...] = KINDS) -> list[tuple[Path, str]]:
    """Files of some kinds under a path, with their names relative to it, sorted by name.

    Args:
        path: a file or a folder.
        kinds: ends of names: KINDS, or TABLES where conversations are wanted.
    Raises:
        DataError: the path is missing, or holds none.
    """
    try:
        return _list_files(Path(path).expanduser(), kinds)
    except (OSError, RuntimeError) as error:
        raise DataError(f"{path}: cannot be read: {error}") from error


def _list_files(root: Path, kinds: tuple[str, ...]) -> list[tuple[Path, str]]:
    known = f"{', '.join(kinds)} (also .gz, .bz2, .xz, .zst)"
    other, none = "cannot read this kind of file", "no file to read in this folder"
    if kinds == TABLES:
        other = none = "no file with conversations or pairs"
    if root.is_file():
        if kind_of(root) not in kinds:
            raise DataError(f"{root}: {other}; known: {known}")
        return [(root, root.name)]
    if not root.is_dir():
        raise DataError(f"{root}: no such file or folder")
    found = sorted(
        (file.relative_to(root).as_posix(), file)
        for file in root.rglob("*")
        if file.is_file() and kind_of(file) in kinds and not file.name.startswith(".")
    )
    if not found:
        raise DataError(f"{root}: {none}; known: {known}")
    return [(file, name) for name, file in found]


def _packing(file: Path) -> str:
    end = Path(file.name.lower()).suffix
    return end if end in (*PACKED, _ZSTD) else ""


def kind_of(file: Path) -> str:
    """The end of a file's name without that of its compression, such as .jsonl."""
    return Path(file.name.lower().removesuffix(_packing(file))).suffix


def _open(file: Path) -> Any:
    """The file's bytes, unpacked while they are read."""
    packing = _packing(file)
    if packing == _ZSTD:
        try:
            import zstandard
        except ImportError as error:
            raise ConfigError(
                f"{file}: .zst needs the package zstandard: pip install zstandard"
            ) from error
        return io.BufferedReader(zstandard.ZstdDecompressor().stream_reader(open(file, "rb")))
    return PACKED[packing](file, "rb") if packing else open(file, "rb")


class _reading:
    """Turns what can be wrong with a file's bytes into one line."""

    def __init__(self, file: Path) -> None:
        self.file = file

    def __enter__(self) -> None:
        return None

    def __exit__(self, kind: type | None, error: BaseException | None, trace: object) -> None:
        if error is None or isinstance(error, DataError | ConfigError):
            return
        packing = _packing(self.file).removeprefix(".")
        damaged = (EOFError, gzip.BadGzipFile, zlib.error, lzma.LZMAError)
        other = packing and (isinstance(error, OSError | ValueError) or "zstd" in str(kind).lower())
        if isinstance(error, damaged) or (other and getattr(error, "errno", None) is None):
            name = {"gz": "gzip", "zst": "zstd"}.get(packing, packing)
            raise DataError(
                f"{self.file}: {name} data is cut off or damaged ({error}); copy the file again"
            ) from error
        if isinstance(error, OSError):
            raise DataError(f"{self.file}: cannot be read: {error.strerror or error}") from error


def _row_ranges(file: Path, name: str) -> Iterator[Lines]:
    size, start, row = file.stat().st_size, 0, 1
    if not size:
        return
    with _reading(file), open(file, "rb") as raw:
        data = mmap.mmap(raw.fileno(), 0, access=mmap.ACCESS_READ)
        while start < size:
            stop = data.find(b"\n", min(start + _PART, size) - 1) + 1 or size
            yield Lines(str(file), name, start, stop, row)
            row += data[start:stop].count(b"\n")
            start = stop
        data.close()


def _packed_rows(file: Path, name: str) -> Iterator[Lines]:
    row, at = 1, 0
    with _reading(file), _open(file) as stream:
        while data := stream.read(_PART):
            data += stream.readline()
            yield Lines(str(file), name, at, at + len(data), row, data)
            row += data.count(b"\n")
            at += len(data)


def _row_groups(file: Path, name: str) -> Iterator[Whole]:
    table = _table(file)
    row = 1
    for group in range(table.num_row_groups):
        about = table.metadata.row_group(group)
        parts = max(1, -(-about.total_byte_size // _GROUP_PART))
        step = -(-about.num_rows // parts)
        for skip in range(0, about.num_rows, max(1, step)):
            rows = min(step, about.num_rows - skip)
            size = about.total_byte_size // parts
            yield Whole(str(file), name, size, group, row + skip, skip, rows)
        row += about.num_rows


def _table(file: Path, row: int = 0) -> Any:
    import pyarrow
    import pyarrow.parquet

    try:
        if not _packing(file):
            return pyarrow.parquet.ParquetFile(file, memory_map=True)
        with _reading(file), _open(file) as stream:
            return pyarrow.parquet.ParquetFile(io.BytesIO(stream.read()))
    except (pyarrow.ArrowException, OSError) as error:
        raise _not_parquet(file, row, error) from error


def _not_parquet(file: Path, row: int, error: BaseException) -> DataError:
    first = (str(error).splitlines() or [type(error).__name__])[0]
    return DataError(f"{file}, after row {row}: not readable Parquet: {first}")


def _read(item: Whole | Lines, tally: Tally, *, fields: list[str]) -> Iterator[Document]:
    file = Path(item.path)
    if isinstance(item, Lines):
        yield from _jsonl(file, item, fields)
    elif item.group is not None:
        yield from _parquet(file, item, fields)
    else:
        with _reading(file), _open(file) as stream:
            data = stream.read()
        yield Document(_decode(data, str(file)), item.name, item.name)


def _decode(data: bytes, where: str) -> str:
    try:
        return data.decode("utf-8")
    except UnicodeDecodeError as error:
        raise DataError(
            f"{where}: not UTF-8 at byte {error.start} (0x{data[error.start]:02x}); convert it, "
            "for example with iconv -f latin1 -t utf-8"
        ) from error


def lines_of(item: Lines) -> Iterator[tuple[int, bytes]]:
    """The lines that are not blank, with their numbers from 1.

    Raises:
        DataError: the file cannot be read.
    """
    data = item.data
    if data is None:
        with _reading(Path(item.path)), open(item.path, "rb") as raw:
            raw.seek(item.start)
            data = raw.read(item.size)
    for number, line in enumerate(io.BytesIO(data), start=item.first_row):
        if line.strip():
            yield number, line


def read_json(line: bytes, where: str) -> Any:
    """What a line of .jsonl holds.

    Args:
        line: with or without its end.
        where: file and row, for the message.
    Raises:
        DataError: it is not UTF-8, or not JSON.
    """
    try:
        return json.loads(_decode(line, where))
    except json.JSONDecodeError as error:
        raise DataError(f"{where}: not JSON: {error.msg} at column {error.colno}") from error
    except RecursionError as error:
        raise DataError(f"{where}: not JSON: nested too deep") from error


def _jsonl(file: Path, item: Lines, fields: list[str]) -> Iterator[Document]:
    for number, line in lines_of(item):
        where = f"{file}, row {number}"
        yield _row(read_json(line, where), fields, where, f"{item.name}:{number}")


def table_rows(item: Whole, fields: list[str] | None = None) -> Iterator[tuple[int, dict]]:
    """Rows of a Parquet row group, with their numbers from 1.

    Args:
        item: with `group`.
        fields: columns that are read where all of them are there, else the rows are empty; None:
            all columns.
    Raises:
        DataError: the file cannot be read.
    """
    import pyarrow

    file, number = Path(item.path), item.first_row - 1
    table = _table(file, number)
    names = table.schema_arrow.names
    whole = fields is None or all(field in names for field in fields)
    try:
        # A column that is missing: any other one counts the rows, for the message.
        chosen = fields if whole else names[:1]
        before, left = item.skip, item.rows
        for batch in table.iter_batches(500, row_groups=[item.group], columns=chosen):
            part = batch.slice(min(before, len(batch)), left)
            before, left = max(0, before - len(batch)), left - len(part)
            for row in part.to_pylist():
                number += 1
                yield number, row if whole else dict.fromkeys(names)
    except (pyarrow.ArrowException, OSError) as error:
        raise _not_parquet(file, number, error) from error


def _parquet(file: Path, item: Whole, fields: list[str]) -> Iterator[Document]:
    for number, row in table_rows(item, fields):
        yield _row(row, fields, f"{file}, row {number}", f"{item.name}:{number}")


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
