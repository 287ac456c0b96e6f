"""Shards that another trainer has written, used where they lie."""

import os
from pathlib import Path
from typing import Any

import numpy as np

from plm.data.documents import disk_errors
from plm.data.indexed import IndexedDataset
from plm.errors import ConfigError, DataError

_CHUNK = 1 << 22
KEYS = {"train", "val"}


def check_shards(shards: Any, key: str) -> None:
    """Refuse a node `shards` that cannot work.

    Raises:
        ConfigError: it is no mapping of train, and perhaps val, to prefixes.
    """
    ok = isinstance(shards, dict) and "train" in shards and set(shards) <= KEYS
    if not ok or not all(isinstance(prefix, str) for prefix in shards.values()):
        raise ConfigError(
            f"{key}={shards!r}: give train, and if there is one val, each the path of a Megatron "
            "dataset without .bin and .idx"
        )


def take_shards(
    shards: dict[str, str], prefix: Path, val_share: float, token_bytes: np.ndarray
) -> dict[str, Any]:
    """Link a source's datasets into the folder of a preparation.

    Args:
        shards: prefixes of train and, if there is one, val.
        prefix: in the folder, `<source>`; links are `<source>-<split>.bin` and .idx.
        val_share: share of the tokens, at the end, that validates where no val is given.
        token_bytes: [V] int32; ids past it are refused.
    Returns:
        By split: documents, tokens, bytes of text, and `range`, the first document and the one
        behind the last.
    Raises:
        DataError: a dataset that is missing, cut short or has ids past the vocabulary.
    """
    whole = {split: IndexedDataset(path) for split, path in shards.items()}
    ranges = {split: (0, data.n_docs) for split, data in whole.items()}
    if "val" not in whole:
        data = whole["train"]
        held = data.n_tokens * (1 - val_share)
        first = int(np.searchsorted(data.doc_starts, held))
        if not 0 < first < data.n_docs:
            raise DataError(
                f"{data.prefix}: {data.n_docs} documents cannot be parted into train and "
                "validation; name a dataset for val under shards"
            )
        whole["val"], ranges = data, {"train": (0, first), "val": (first, data.n_docs)}
    found = {}
    for split, data in whole.items():
        for end in (".bin", ".idx"):
            link = prefix.with_name(f"{prefix.name}-{split}{end}")
            with disk_errors(link):
                link.unlink(missing_ok=True)
                os.symlink(data.prefix.with_name(data.prefix.name + end).resolve(), link)
        part = IndexedDataset(data.prefix, ranges[split])
        found[split] = {
            "documents": part.n_docs,
            "tokens": part.n_tokens,
            "bytes": _bytes(part, token_bytes),
            "range": list(ranges[split]),
        }
    return found


def _bytes(data: IndexedDataset, token_bytes: np.ndarray) -> int:
    """Bytes of text that the tokens stand for; every id is looked at."""
    total = 0
    for start in range(0, data.n_tokens, _CHUNK):
        tokens = data.tokens(start, min(_CHUNK, data.n_tokens - start))
        low, high = int(tokens.min()), int(tokens.max())
        if low < 0 or high >= len(token_bytes):
            place = start + int(np.argmax((tokens < 0) | (tokens >= len(token_bytes))))
            document = int(np.searchsorted(data.doc_starts, place, side="right")) - 1
            raise DataError(
                f"{data.prefix}.bin, document {data.first_doc + document}: token "
                f"{int(data.tokens(place, 1)[0])} is past the vocabulary of {len(token_bytes)}; "
                "was it made with another tokenizer?"
            )
        total += int(token_bytes[tokens].sum(dtype=np.int64))
    return total
