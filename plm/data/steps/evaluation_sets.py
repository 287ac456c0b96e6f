"""Evaluation sets as an index of their runs of words, for the step `decontaminate`."""

import re
from collections.abc import Iterator
from functools import lru_cache
from hashlib import blake2b
from pathlib import Path
from typing import Any

import numpy as np

from plm.data.sources.files import files
from plm.errors import DataError

# Underscores part words too, so that a name in code is the words it is made of; Chinese and
# Japanese put no blanks between words.
WORD = re.compile(r"[\u3040-\u30ff\u3400-\u9fff]|[^\W_\u3040-\u30ff\u3400-\u9fff]+")
_FACTOR = 0x9E3779B97F4A7C15
_LEAST_WORDS = 8
"""A text of fewer words says too little to be recognised by."""

Index = dict[int, tuple[np.ndarray, np.ndarray]]
"""By number of words in a run: hashes of the runs, sorted, uint64; number of the set, uint16."""


def make_index(sets: dict[str, dict[str, Any]], ngram: int) -> Index:
    """The runs of all sets; where two sets share one, it is the first set's.

    Raises:
        DataError: a set, or a field of it, is missing.
    """
    found: dict[int, tuple[list[np.ndarray], list[int]]] = {}
    for number, (name, entry) in enumerate(sets.items()):
        for text in _texts(f"decontaminate: against.{name}", entry):
            words = _word_hashes(text)
            length = min(ngram, len(words))
            if length < min(ngram, _LEAST_WORDS):
                continue
            runs, numbers = found.setdefault(length, ([], []))
            runs.append(_runs(words, length))
            numbers.extend([number] * len(runs[-1]))
    index = {}
    for length, (runs, numbers) in found.items():
        hashes, first = np.unique(np.concatenate(runs), return_index=True)
        index[length] = hashes, np.array(numbers, dtype=np.uint16)[first]
    return index


def shared_runs(text: str, index: Index) -> list[tuple[int, int, int]]:
    """Runs found in the index: (first word, number of words, number of the set), in order."""
    words = _word_hashes(text)
    found = []
    for length, (known, numbers) in index.items():
        if len(words) < length:
            continue
        runs = _runs(words, length)
        places = np.minimum(np.searchsorted(known, runs), len(known) - 1)
        hits = np.flatnonzero(known[places] == runs)
        found += [(int(hit), length, int(numbers[places[hit]])) for hit in hits]
    return sorted(found)


def _texts(key: str, entry: dict[str, Any]) -> Iterator[str]:
    """Every field of every row of one set, one after another."""
    fields = entry.get("fields", ["text"])
    if "dataset" in entry:
        yield from _hub_texts(key, entry, fields)
        return
    try:
        for field in fields:
            for document in files(entry["path"], fields=[field]):
                yield document.text
    except DataError as error:
        raise DataError(f"{key}: {error}") from error


def _hub_texts(key: str, entry: dict[str, Any], fields: list[str]) -> Iterator[str]:
    from datasets import load_dataset

    place, split = entry["dataset"], entry.get("split", "test")
    where = f"{key}: {place}, split {split}"
    # load_dataset takes a missing folder for a name on the hub, and then speaks of the network.
    if place.startswith((".", "/", "~")) and not Path(place).expanduser().is_dir():
        raise DataError(f"{where}: no such folder")
    revision = entry.get("revision")
    try:
        rows = load_dataset(place, entry.get("config"), split=split, revision=revision)
    # datasets, fsspec, huggingface_hub and the network each raise kinds of their own.
    except (OSError, ValueError, RuntimeError, ConnectionError) as error:
        first = (str(error).splitlines() or [type(error).__name__])[0]
        raise DataError(f"{where}: cannot be loaded: {first}") from error
    for field in fields:
        if field not in rows.column_names:
            known = ", ".join(rows.column_names)
            raise DataError(f"{where}: no field {field!r}; it has {known}")
        for text in rows[field]:
            if not isinstance(text, str):
                raise DataError(f"{where}: field {field!r} is not text: {str(text)[:50]!r}")
            yield text


@lru_cache(maxsize=1 << 18)
def _word_hash(word: str) -> int:
    # Not hash(): it changes from process to process, and with it what collides.
    return int.from_bytes(blake2b(word.encode(), digest_size=8).digest(), "little")


def _word_hashes(text: str) -> np.ndarray:
    words = (_word_hash(match.group().lower()) for match in WORD.finditer(text))
    return np.fromiter(words, dtype=np.uint64)


def _runs(words: np.ndarray, length: int) -> np.ndarray:
    """One hash for each run of `length` words: a polynomial of their hashes, modulo 2^64."""
    hashes = np.zeros(len(words) - length + 1, dtype=np.uint64)
    for first in range(length):
        hashes *= np.uint64(_FACTOR)
        hashes += words[first : first + len(hashes)]
    return hashes
