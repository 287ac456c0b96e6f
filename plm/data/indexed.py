"""Megatron's indexed dataset: one `.bin` of tokens and one `.idx` that says where documents lie.

Layout of `.idx`, little-endian: magic "MMIDIDX\\0\\0", version (uint64) 1, dtype code (uint8),
number of sequences (uint64), number of document indices (uint64), sequence lengths in tokens
(int32 each), byte offsets into `.bin` (int64 each), document indices (int64 each, from 0 to the
number of sequences). Here a sequence is a document.

Source: NVIDIA/Megatron-LM, megatron/core/datasets/indexed_dataset.py
"""

import os
import struct
from array import array
from pathlib import Path

import numpy as np

from plm.data.documents import disk_errors, sync
from plm.data.journal import Journal
from plm.errors import DataError

MAGIC = b"MMIDIDX\x00\x00"
VERSION = 1
_HEADER = struct.Struct("<9sQBQQ")
_CODES = {
    1: np.uint8,
    2: np.int8,
    3: np.int16,
    4: np.int32,
    5: np.int64,
    6: np.float64,
    7: np.float32,
    8: np.uint16,
}
_LARGEST_UINT16_VOCABULARY = 65_535


def token_dtype(vocab_size: int) -> np.dtype:
    """The integer type that a vocabulary's shards are written in.

    Raises:
        DataError: the vocabulary fits no type of the format.
    """
    if vocab_size <= _LARGEST_UINT16_VOCABULARY:
        return np.dtype(np.uint16)
    if vocab_size <= np.iinfo(np.int32).max:
        return np.dtype(np.int32)
    raise DataError(f"vocab_size={vocab_size} does not fit int32, the widest type of the shards")


class IndexedWriter:
    """Writes a dataset; it appears under its name only when it is whole.

    Use as a context manager: leaving by an error removes what was written so far, unless `keep`
    says that a later writer goes on with it.

    Args:
        prefix: path without the suffixes .bin and .idx.
        dtype: integer type of the tokens.
        keep: note each call of `add` in `<prefix>.journal`, and take over what an earlier writer
            has noted there.

    Attributes:
        parts: calls of `add` so far, those of earlier writers included.
        n_tokens: written so far.
    """

    def __init__(self, prefix: Path, dtype: np.dtype, keep: bool = False) -> None:
        self.prefix = Path(prefix)
        self.dtype = np.dtype(dtype)
        self._lengths = array("q")
        self.parts = self.n_tokens = 0
        self._bin = self.prefix.with_name(self.prefix.name + ".bin.partial")
        self._idx = self.prefix.with_name(self.prefix.name + ".idx.partial")
        path = self.prefix.with_name(self.prefix.name + ".journal")
        self._journal = Journal(path) if keep else None

    def __enter__(self) -> "IndexedWriter":
        if self._journal is not None:
            self._take_over(self._journal)
        with disk_errors(self._bin):
            self._file = open(self._bin, "ab")
            self._file.truncate(self.n_tokens * self.dtype.itemsize)
        return self

    def _take_over(self, journal: Journal) -> None:
        size = self._bin.stat().st_size if self._bin.exists() else 0
        n_tokens = sum(record["tokens"] for record in journal.records)
        if size < n_tokens * self.dtype.itemsize:
            # The system lost what the journal tells of, as in a power cut: begin anew.
            journal.clear()
            return
        self.n_tokens, self.parts = n_tokens, len(journal.records)
        for record in journal.records:
            self._lengths.extend(record["lengths"])
        journal.records.clear()

    @property
    def open_length(self) -> int:
        """Tokens of a document whose length has not come yet."""
        return self.n_tokens - sum(self._lengths)

    def add(self, tokens: np.ndarray, lengths: list[int]) -> None:
        """Append tokens, and the lengths of the documents that end among them.

        A document may come in several calls; its length is given with the last.

        Args:
            tokens: [N], any integer type.
            lengths: tokens of each document, those of earlier calls included.
        Raises:
            DataError: a token does not fit the type, or the disk is full.
        """
        limits = np.iinfo(self.dtype)
        if len(tokens) and not limits.min <= int(tokens.min()) <= int(tokens.max()) <= limits.max:
            raise DataError(
                f"{self.prefix}: token {int(tokens.max())} does not fit {self.dtype}; "
                "the vocabulary is larger than the type that the shard was opened with"
            )
        with disk_errors(self._bin):
            self._file.write(tokens.astype(self.dtype.newbyteorder("<"), copy=False).tobytes())
            if self._journal is not None:
                self._file.flush()
                self._journal.add({"tokens": len(tokens), "lengths": lengths})
                self._journal.records.clear()
        self.n_tokens += len(tokens)
        self.parts += 1
        self._lengths.extend(lengths)

    def __exit__(self, kind: type | None, error: object, trace: object) -> None:
        try:
            with disk_errors(self._bin):
                if kind is None:
                    self._file.flush()
                    os.fsync(self._file.fileno())
                self._file.close()
            if kind is None:
                if self.open_length:
                    raise ValueError(f"{self.prefix}: the last document has no length")
                self._write_index()
                with disk_errors(self._bin):
                    for path in (self._bin, self._idx):
                        os.replace(path, path.with_suffix(""))
                    sync(self.prefix.parent)
                if self._journal is not None:
                    self._journal.remove()
        finally:
            if self._journal is not None:
                self._journal.close()
            else:
                for path in (self._bin, self._idx):
                    path.unlink(missing_ok=True)

    def _write_index(self) -> None:
        lengths = np.frombuffer(self._lengths, dtype=np.int64).astype("<i4")
        starts = np.zeros(len(lengths), dtype="<i8")
        np.cumsum(lengths[:-1].astype(np.int64) * self.dtype.itemsize, out=starts[1:])
        code = next(code for code, kind in _CODES.items() if np.dtype(kind) == self.dtype)
        header = _HEADER.pack(MAGIC, VERSION, code, len(lengths), len(lengths) + 1)
        with disk_errors(self._idx), open(self._idx, "wb") as file:
            file.write(header)
            file.write(lengths.tobytes())
            file.write(starts.tobytes())
            file.write(np.arange(len(lengths) + 1, dtype="<i8").tobytes())
            file.flush()
            os.fsync(file.fileno())


class IndexedDataset:
    """A dataset on disk, memory-mapped.

    Args:
        prefix: path without the suffixes .bin and .idx.
        documents: take those from the first number up to the second alone; None: all.

    Attributes:
        first_doc: number in the file of the first document taken.
        dtype: of the tokens.
        n_docs, n_tokens: sizes.
        doc_starts: [n_docs + 1] int64, token offset of each document, ending with n_tokens.

    Raises:
        DataError: a file is missing, is not of this format, or is cut short.
    """

    def __init__(self, prefix: Path | str, documents: tuple[int, int] | None = None) -> None:
        self.prefix = Path(prefix)
        index, data = (self.prefix.with_name(self.prefix.name + end) for end in (".idx", ".bin"))
        for path in (index, data):
            if not path.is_file():
                raise DataError(f"{path}: no such file; a dataset is a .bin and an .idx")
        raw = np.fromfile(index, dtype=np.uint8)
        if len(raw) < _HEADER.size or raw[:9].tobytes() != MAGIC:
            raise DataError(f"{index}: not a Megatron index (no MMIDIDX at its head)")
        _, version, code, n_sequences, n_marks = _HEADER.unpack(raw[: _HEADER.size].tobytes())
        if version != VERSION or code not in _CODES:
            raise DataError(f"{index}: version {version}, dtype code {code} cannot be read")
        if len(raw) != _HEADER.size + 12 * n_sequences + 8 * n_marks:
            raise DataError(f"{index}: {len(raw)} bytes do not fit its {n_sequences} sequences")
        self.dtype = np.dtype(_CODES[code])
        body = raw[_HEADER.size :].tobytes()
        lengths = np.frombuffer(body, dtype="<i4", count=n_sequences).astype(np.int64)
        marks = np.frombuffer(body, dtype="<i8", count=n_marks, offset=12 * n_sequences)
        ends = np.concatenate([np.zeros(1, np.int64), np.cumsum(lengths)])
        size = data.stat().st_size
        if size != int(ends[-1]) * self.dtype.itemsize:
            raise DataError(
                f"{data}: {size} bytes, but its index says {int(ends[-1])} tokens of "
                f"{self.dtype.itemsize} bytes"
            )
        mapped = np.memmap(data, dtype=self.dtype, mode="r") if size else np.empty(0, self.dtype)
        self.first_doc, last = documents or (0, n_marks - 1)
        starts = ends[marks][self.first_doc : last + 1]
        # A plain array over the map: np.memmap's own indexing is slow.
        self._tokens = mapped.view(np.ndarray)[starts[0] : starts[-1]]
        self.doc_starts = starts - starts[0]
        self.n_docs, self.n_tokens = len(starts) - 1, int(starts[-1] - starts[0])

    def tokens(self, start: int, count: int) -> np.ndarray:
        """`count` tokens from token `start` of all documents joined: [count], a read-only view."""
        if not 0 <= start <= start + count <= self.n_tokens:
            raise IndexError(f"{self.prefix}: tokens {start} to {start + count} of {self.n_tokens}")
        return self._tokens[start : start + count]

    def windows(self, offsets: np.ndarray, size: int) -> np.ndarray:
        """`size` tokens from each of the places `offsets` on: [n, size], a copy."""
        if len(offsets) and not 0 <= offsets.min() <= offsets.max() + size <= self.n_tokens:
            raise IndexError(f"{self.prefix}: windows of {size} end past {self.n_tokens} tokens")
        return np.lib.stride_tricks.sliding_window_view(self._tokens, size)[offsets]

    def gather(self, places: np.ndarray) -> np.ndarray:
        """The tokens at single places: the shape of `places`, a copy."""
        return self._tokens[places]

    def document(self, index: int) -> np.ndarray:
        """Tokens of one document, a read-only view."""
        start, stop = self.doc_starts[index], self.doc_starts[index + 1]
        return self._tokens[start:stop]
