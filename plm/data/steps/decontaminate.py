"""Drops what shares runs of words with named evaluation sets, or cuts it out.

Paper: Brown et al., Language models are few-shot learners (arXiv:2005.14165), appendix C
Departs: drops whole documents unless `cut` is set; a run that stands in many training documents
counts all the same, since a step sees one document at a time; a Chinese or Japanese character
counts as a word.
Cost: 6 MB of text a second of processor time with the test sets of GSM8K and HumanEval (124,000
runs), one core with other work on it; 10 bytes of index a run in each worker.
"""

import json
from collections.abc import Iterator
from functools import lru_cache
from typing import Any

import numpy as np

from plm.data.documents import Document, per_document
from plm.data.steps.evaluation_sets import WORD, Index, make_index, shared_runs
from plm.data.tally import Tally
from plm.errors import ConfigError

_SET_KEYS = ("path", "dataset", "config", "split", "revision", "fields")


@per_document
def decontaminate(
    documents: Iterator[Document],
    *,
    tally: Tally,
    against: dict[str, dict[str, Any]],
    ngram: int = 13,
    cut: bool = False,
    around: int = 200,
    min_piece: int = 200,
    max_places: int = 9,
) -> Iterator[Document]:
    """Keep documents that share no run of `ngram` words with an evaluation set.

    Words are compared in lower case, without punctuation. A text of the sets with fewer words is
    one run of all of them, or is left out where it has fewer than eight.

    Args:
        documents: in any order.
        tally: counts each document once, by the first set in `against` that it meets, and shows
            its beginning; with `cut` places by their set, and shows the words found there.
        against: by name `{path, fields}`, read as the origin `files` does, or `{dataset, config,
            split, revision, fields}` for `datasets.load_dataset`: a name on the hub or a folder,
            split "test" unless named. Each field is a text by itself.
        ngram: words in a run.
        cut: take out the shared words and what is around them, not the whole document; each piece
            left is a document of its own, in the same group.
        around: characters cut on each side of the shared words, up to a whole word.
        min_piece: characters; shorter pieces are left out.
        max_places: a document to be cut at more places is dropped.
    Raises:
        ConfigError: `against` names no set or an unknown key, or a number is out of range.
        DataError: a set, or a field of it, is missing.

    Drops: "shares words with <set>"; with `cut`: "many places of <set>", "little beside <set>".
    Changes: "cut out of <set>", in places.
    """
    names = _check(against, ngram, around)
    # As a string: a cache needs a key that can be hashed, and keeps the order of the sets.
    index = _index(json.dumps(against), ngram)
    for document in documents:
        shared = shared_runs(document.text, index)
        first = names[min((number for _, _, number in shared), default=0)]
        if not shared:
            yield document
        elif not cut:
            tally.drop(f"shares words with {first}", document.name, document.text)
        elif len(places := _places(document.text, shared, around)) > max_places:
            tally.drop(f"many places of {first}", document.name, document.text)
        elif not (pieces := _pieces(document.text, places, min_piece)):
            tally.drop(f"little beside {first}", document.name, document.text)
        else:
            for _, end, number, words in places:
                said = document.text[words:end]
                tally.change(f"cut out of {names[number]}", document.name, said)
            for number, piece in enumerate(pieces):
                yield Document(piece, f"{document.name}#{number}", document.group)


def _check(against: Any, ngram: int, around: int) -> list[str]:
    if not isinstance(against, dict) or not against:
        raise ConfigError(
            f"decontaminate: against={against} names no evaluation set; give one by its name, for "
            "example {gsm8k_test: {path: test.jsonl, fields: [question]}}, or leave the step out"
        )
    if ngram < 1 or around < 0:
        raise ConfigError(
            f"decontaminate: ngram={ngram} must be positive and around={around} not negative; "
            "the paper has 13 and 200"
        )
    for name, entry in against.items():
        key = f"decontaminate: against.{name}"
        if not isinstance(entry, dict) or ("path" in entry) == ("dataset" in entry):
            raise ConfigError(f"{key}={entry} must have either path or dataset")
        for unknown in sorted(set(entry) - set(_SET_KEYS)):
            raise ConfigError(f"{key}: unknown key {unknown}; known: {', '.join(_SET_KEYS)}")
        fields = entry.get("fields", ["text"])
        if not isinstance(fields, list) or not fields:
            raise ConfigError(f"{key}.fields={fields} must be a list of names, for example [text]")
    return [str(name) for name in against]


@lru_cache(maxsize=4)
def _index(settings: str, ngram: int) -> Index:
    return make_index(json.loads(settings), ngram)


def _places(
    text: str, shared: list[tuple[int, int, int]], around: int
) -> list[tuple[int, int, int, int]]:
    """What to cut out: (start, end, number of the set, where the shared words start), in order."""
    spans = np.array([match.span() for match in WORD.finditer(text)])
    starts, ends = spans[:, 0], spans[:, 1]
    places: list[tuple[int, int, int, int]] = []
    for first, length, number in shared:
        words = int(starts[first])
        # Grown to where the words at both ends begin and end.
        before = np.searchsorted(ends, words - around, side="right")
        after = np.searchsorted(starts, ends[first + length - 1] + around, side="left") - 1
        start, end = int(starts[before]), int(ends[after])
        if places and start <= places[-1][1]:
            last = places.pop()
            places.append((last[0], max(end, last[1]), *last[2:]))
        else:
            places.append((start, end, number, words))
    return places


def _pieces(text: str, places: list[tuple[int, int, int, int]], min_piece: int) -> list[str]:
    ends = [0, *(end for _, end, _, _ in places)]
    starts = [*(start for start, _, _, _ in places), len(text)]
    pieces = [text[end:start].strip() for end, start in zip(ends, starts, strict=True)]
    return [piece + "\n" for piece in pieces if len(piece) >= min_piece and piece]
