"""Rules against text that says the same again: lines, paragraphs, runs of words.

Paper: Rae et al., Gopher (arXiv:2112.11446), table A1
Departs: shares are of the characters in words; a top run must occur twice, or every short text
would have one; of a run that came before, the later places count, not the first, as with lines.
Cost: one sort of the words for each length of run that is looked at.
"""

import re
from collections.abc import Iterator

import numpy as np

from plm.data.documents import Document, per_document
from plm.data.tally import Tally
from plm.errors import ConfigError

_PARAGRAPHS = re.compile(r"\n\s*\n")
_TOP = {2: 0.20, 3: 0.18, 4: 0.16}
_DUPLICATE = {5: 0.15, 6: 0.14, 7: 0.13, 8: 0.12, 9: 0.11, 10: 0.10}


@per_document
def gopher_repetition(
    documents: Iterator[Document],
    *,
    tally: Tally,
    max_lines: float = 0.30,
    max_paragraphs: float = 0.30,
    max_line_chars: float = 0.20,
    max_paragraph_chars: float = 0.20,
    max_top: dict[int, float] | None = None,
    max_duplicate: dict[int, float] | None = None,
) -> Iterator[Document]:
    """Keep a document that all rules hold for; the first that fails is its reason.

    Args:
        documents: normalised.
        tally: told what is left out, and why.
        max_lines: share of the lines that came before in the document.
        max_paragraphs: the same of paragraphs, which empty lines part.
        max_line_chars: share of the characters in lines that came before.
        max_paragraph_chars: the same in paragraphs.
        max_top: by number of words in a run, the share of characters in the run that occurs most
            often; the paper's where it is not given, {} for no such rule.
        max_duplicate: by number of words in a run, the share of characters in runs that came
            before, each character counted once; {} for no such rule.
    Raises:
        ConfigError: a share is not in [0, 1], or a run has no words.

    Drops: "repeated lines", "repeated paragraphs", "characters in repeated lines", "characters in
    repeated paragraphs", "one run of <n> words", "repeated runs of <n> words".
    """
    top = _TOP if max_top is None else max_top
    duplicate = _DUPLICATE if max_duplicate is None else max_duplicate
    parts = {
        "max_lines": max_lines,
        "max_paragraphs": max_paragraphs,
        "max_line_chars": max_line_chars,
        "max_paragraph_chars": max_paragraph_chars,
    }
    _check(parts, top, duplicate)
    for document in documents:
        reason = _parts(document.text, *parts.values()) or _runs(document.text, top, duplicate)
        if reason:
            tally.drop(reason, document.name, document.text)
        else:
            yield document


def _check(parts: dict[str, float], top: dict[int, float], duplicate: dict[int, float]) -> None:
    shares = dict(parts)
    for name, limits in (("max_top", top), ("max_duplicate", duplicate)):
        for length, share in limits.items():
            if not isinstance(length, int) or length < 1:
                raise ConfigError(
                    f"gopher_repetition: {name} has {length!r}: not a number of words"
                )
            shares[f"{name}.{length}"] = share
    for name, share in shares.items():
        if not 0 <= share <= 1:
            raise ConfigError(f"gopher_repetition: {name}={share} is not in [0, 1]")


def _parts(
    text: str, lines: float, paragraphs: float, line_chars: float, paragraph_chars: float
) -> str:
    """Why the text's lines or paragraphs are refused; empty if they are not."""
    for name, pieces, most, most_chars in (
        ("lines", text.split("\n"), lines, line_chars),
        ("paragraphs", _PARAGRAPHS.split(text), paragraphs, paragraph_chars),
    ):
        whole = [piece.strip() for piece in pieces if piece.strip()]
        once = set(whole)
        if len(whole) - len(once) > most * len(whole):
            return f"repeated {name}"
        total = sum(map(len, whole))
        if total - sum(map(len, once)) > most_chars * total:
            return f"characters in repeated {name}"
    return ""


def _runs(text: str, top: dict[int, float], duplicate: dict[int, float]) -> str:
    """Why the text's runs of words are refused; empty if they are not."""
    words = text.split()
    numbers: dict[str, int] = {}
    word_ids = np.array([numbers.setdefault(word, len(numbers)) for word in words], dtype=np.int64)
    lengths = np.array([len(word) for word in words], dtype=np.int64)
    total = int(lengths.sum())
    run_ids = word_ids
    for length in range(1, min(max((*top, *duplicate), default=0), len(words)) + 1):
        if length > 1:
            # Two numbers in one: exact, since both are smaller than the number of words.
            pairs = run_ids[:-1] * len(numbers) + word_ids[length - 1 :]
            run_ids = np.unique(pairs, return_inverse=True)[1]
        if length in top and _chars(_top(run_ids), lengths, length) > top[length] * total:
            return f"one run of {length} words"
        if length in duplicate:
            chars = _chars(_again(run_ids), lengths, length)
            if chars > duplicate[length] * total:
                return f"repeated runs of {length} words"
    return ""


def _top(run_ids: np.ndarray) -> np.ndarray:
    """Where the run that occurs most often begins; of several, the one that covers most."""
    counts = np.bincount(run_ids)
    return np.flatnonzero(run_ids == counts.argmax()) if counts.max() > 1 else np.empty(0, int)


def _again(run_ids: np.ndarray) -> np.ndarray:
    """Where runs begin that came before."""
    first = np.zeros(len(run_ids), dtype=bool)
    first[np.unique(run_ids, return_index=True)[1]] = True
    return np.flatnonzero(~first)


def _chars(starts: np.ndarray, lengths: np.ndarray, length: int) -> int:
    """Characters of the words in runs of `length` words from these starts, each counted once."""
    covered = np.zeros(len(lengths) + 1, dtype=np.int64)
    np.add.at(covered, starts, 1)
    np.add.at(covered, starts + length, -1)
    return int(lengths[np.cumsum(covered)[:-1] > 0].sum())
