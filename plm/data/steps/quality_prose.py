"""Rules that keep running text and drop tables, lists of names and debris.

Paper: Rae et al., Gopher (arXiv:2112.11446), table A1; Raffel et al., C4 (arXiv:1910.10683)
Departs: the limits are wider, since docstrings hold examples and lists; no rule on stop words.
"""

import re
from collections.abc import Iterator

from plm.data.documents import Document, Drops, per_document

_WITH_LETTER = re.compile(r"(?<!\S)(?:[^\w\s]|[\d_])*[^\W\d_]")


@per_document
def quality_prose(
    documents: Iterator[Document],
    *,
    drops: Drops,
    min_words: int = 30,
    word_length: tuple[float, float] = (2.5, 12.0),
    min_alphabetic_words: float = 0.55,
    max_symbol_ratio: float = 0.12,
    max_repeated_lines: float = 0.3,
) -> Iterator[Document]:
    """Keep a document that reads like text.

    Args:
        documents: normalised.
        drops: counts what is left out, by reason.
        min_words: fewer words are no text.
        word_length: mean length of a word, in characters, from and to.
        min_alphabetic_words: share of words with a letter.
        max_symbol_ratio: '#', '|' and '...' a word.
        max_repeated_lines: share of the characters in lines that stood there before.

    Drops: "too short", "word length", "few words with letters", "symbols", "repeated lines".
    """
    for document in documents:
        text = document.text
        words = text.split()
        lines = [line.strip() for line in text.split("\n") if line.strip()]
        mean = sum(map(len, words)) / max(1, len(words))
        alphabetic = len(_WITH_LETTER.findall(text))
        symbols = text.count("#") + text.count("|") + text.count("...")
        if len(words) < min_words:
            drops["too short"] += 1
        elif not word_length[0] <= mean <= word_length[1]:
            drops["word length"] += 1
        elif alphabetic < min_alphabetic_words * len(words):
            drops["few words with letters"] += 1
        elif symbols > max_symbol_ratio * len(words):
            drops["symbols"] += 1
        elif _repeated(lines) > max_repeated_lines:
            drops["repeated lines"] += 1
        else:
            yield document


def _repeated(lines: list[str]) -> float:
    once = sum(map(len, set(lines)))
    total = sum(map(len, lines))
    return (total - once) / max(1, total)
