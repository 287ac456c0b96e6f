"""From text stores to a tokenizer and shards, with all workers."""

import os
from collections.abc import Callable, Iterator
from concurrent.futures import Executor
from functools import lru_cache
from itertools import islice
from pathlib import Path
from random import Random
from typing import NamedTuple

import numpy as np

from plm.data import conversations, pairs
from plm.data import tokenizer as bpe
from plm.data.documents import disk_errors
from plm.data.indexed import IndexedDataset, IndexedWriter, token_dtype
from plm.data.pool import ordered, portions
from plm.data.textstore import Entry, TextFile, TextStore, opened, read_texts

_PORTION = 1_000_000
_SEGMENT = 100_000
_SAID = {"conversation": conversations.said, "pair": pairs.said}

Progress = Callable[[str, int, int | None], None]


def shuffled(entries: list[Entry], seed: int, salt: str) -> list[Entry]:
    """The entries in an order drawn from (seed, salt)."""
    order = list(entries)
    Random(f"{seed}/{salt}").shuffle(order)
    return order


def train_tokenizer(
    samples: list[tuple[Path, list[Entry], int, str]],
    vocab_size: int,
    special_tokens: list[str],
    pre_tokenizer: str,
    target: Path,
) -> None:
    """Train on samples and save; runs in a worker, so that no thread of it stays in the caller.

    Args:
        samples: text store's file, entries in the order to take them, characters to take, and
            what they are: document, conversation or pair; of the latter only what is said counts.
        vocab_size, special_tokens, pre_tokenizer: of the tokenizer.
        target: where tokenizer.json is written.
    """

    def texts() -> Iterator[str]:
        for path, entries, budget, kind in samples:
            found = read_texts(path, entries)
            yield from bpe.cut(map(_SAID[kind], found) if kind in _SAID else found, budget)

    before = os.environ.get("TOKENIZERS_PARALLELISM")
    os.environ["TOKENIZERS_PARALLELISM"] = "true"
    try:
        tokenizer = bpe.train(
            texts(),
            vocab_size=vocab_size,
            special_tokens=special_tokens,
            pre_tokenizer=pre_tokenizer,
        )
    finally:
        os.environ.pop("TOKENIZERS_PARALLELISM")
        if before is not None:
            os.environ["TOKENIZERS_PARALLELISM"] = before
    with disk_errors(target):
        bpe.save(tokenizer, target)


class Coding(NamedTuple):
    """How text becomes tokens, in any process.

    Attributes:
        path: of tokenizer.json.
        end: id that ends a document.
        vocab_size: no id reaches it; decides the integer type.
        cuttable: whether a long document may be encoded in pieces (see `_safe_cut`).
    """

    path: str
    end: int
    vocab_size: int
    cuttable: bool

    @classmethod
    def of(cls, path: Path, end_of_text: str, vocab_size: int) -> "Coding":
        """Of a tokenizer's file."""
        tokenizer = bpe.load(path)
        end = tokenizer.token_to_id(end_of_text)
        return cls(str(path), end, vocab_size, bpe.Encoder(tokenizer).fast)


def write_shard(
    store: TextStore,
    entries: list[Entry],
    prefix: Path,
    coding: Coding,
    executor: Executor,
    ahead: int,
    told: Callable[[int], None],
) -> dict[str, int]:
    """Encode entries and write them as one dataset, with the documents' names beside it.

    What an earlier try has written is gone on with, or left as it is where it is whole.

    Args:
        store: of the source.
        entries: documents in the shard's order.
        prefix: of the dataset; names go to `<prefix>.names`.
        coding: of the text.
        executor, ahead: of `pool`.
        told: called with the bytes of text encoded since the last call.
    Returns:
        documents, tokens and bytes of text.
    """
    dtype = token_dtype(coding.vocab_size)
    total = sum(entry.length for entry in entries)
    if prefix.with_name(prefix.name + ".idx").exists():
        told(total)
        n_tokens = IndexedDataset(prefix).n_tokens
        return {"documents": len(entries), "tokens": n_tokens, "bytes": total}
    # Before the index, which says that all is there.
    with disk_errors(prefix), open(prefix.with_name(prefix.name + ".names"), "wb") as file:
        file.writelines(f"{entry.name}\n".encode() for entry in entries)
    segments = _segments(store, entries, coding.cuttable)
    parts = portions(segments, lambda s: s[1], _PORTION)
    with IndexedWriter(prefix, dtype, keep=True) as writer:
        for portion in islice(parts, writer.parts):
            told(sum(length for _, length, _ in portion))
        tasks = ((store.path, portion, coding, dtype.str) for portion in parts)
        length = writer.open_length
        for raw, lengths, n_bytes in ordered(executor, ahead, _encode, tasks):
            whole: list[int] = []
            for part, ends in lengths:
                length += part
                if ends:
                    whole.append(length)
                    length = 0
            writer.add(np.frombuffer(raw, dtype=dtype), whole)
            told(n_bytes)
    return {"documents": len(entries), "tokens": writer.n_tokens, "bytes": total}


def _segments(
    store: TextStore, entries: list[Entry], cuttable: bool
) -> Iterator[tuple[int, int, bool]]:
    """(start, length, ends a document): long documents cut where the pre-tokeniser cuts anyhow."""
    with opened(store.path) as data:
        for entry in entries:
            start, stop = entry.start, entry.start + entry.length
            while cuttable and stop - start > 2 * _SEGMENT:
                cut = _safe_cut(data, start + _SEGMENT, stop)
                yield start, cut - start, False
                start = cut
            yield start, stop - start, True


def _safe_cut(data: TextFile, position: int, stop: int) -> int:
    """The next place after a newline that stands between two visible ASCII characters.

    There every pattern of `tokenizer.PATTERNS` cuts, whatever else the text holds.
    """
    while True:
        found = data.find(b"\n", position, stop - 1)
        if found < 0:
            return stop
        before, _, after = data.read(found - 1, 3)
        if 0x20 < before < 0x7F and 0x20 < after < 0x7F:
            return found + 1
        position = found + 1


@lru_cache(maxsize=1)
def _encoder(path: str, modified: int, vocab_size: int) -> bpe.Encoder:
    return bpe.Encoder(bpe.load(path), vocab_size)


def _encode(task: tuple) -> tuple[bytes, list[tuple[int, bool]], int]:
    path, segments, coding, dtype = task
    encoder = _encoder(coding.path, os.stat(coding.path).st_mtime_ns, coding.vocab_size)
    with opened(path) as data:
        texts = [data.read(start, length).decode() for start, length, _ in segments]
    end = np.array([coding.end], dtype=np.int32)
    parts, lengths = [], []
    for ids, (_, _, ends) in zip(encoder.encode_batch(texts), segments, strict=True):
        parts.append(ids)
        if ends:
            parts.append(end)
        lengths.append((len(ids) + ends, ends))
    raw = np.concatenate(parts).astype(dtype).tobytes()
    return raw, lengths, sum(length for _, length, _ in segments)
