"""Rules that keep running text and drop tables, lists of names and debris.

Paper: Rae et al., Gopher (arXiv:2112.11446), table A1; Raffel et al., C4 (arXiv:1910.10683)
Departs: the limits are wider, since docstrings hold examples and lists; no rule on stop words.
"""

import re
from collections.abc import Iterator

from plm.data.documents import Document, per_document
from plm.data.tally import Tally

_WITH_LETTER = re.compile(r"(?<!\S)(?:[^\w\s]|[\d_])*[^\W\d_]")


@per_document
def quality_prose(
    documents: Iterator[Document],
    *,
    tally: Tally,
    min_words: int = 30,
    word_length: tuple[float, float] = (2.5, 12.0),
    min_alphabetic_words: float = 0.55,
    max_symbol_ratio: float = 0.12,
    max_repeated_lines: float = 0.3,
) -> Iterator[Document]:
    """Keep a document that reads like text.

    Args:
        documents: normalised.
        tally: told what is left out, and why.
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
            tally.drop("too short", document.name, document.text)
        elif not word_length[0] <= mean <= word_length[1]:
            tally.drop("word length", document.name, document.text)
        elif alphabetic < min_alphabetic_words * len(words):
            tally.drop("few words with letters", document.name, document.text)
        elif symbols > max_symbol_ratio * len(words):
            tally.drop("symbols", document.name, document.text)
        elif _repeated(lines) > max_repeated_lines:
            tally.drop("repeated lines", document.name, document.text)
        else:
            yield document


def _repeated(lines: list[str]) -> float:
    once = sum(map(len, set(lines)))
    total = sum(map(len, lines))
    return (total - once) / max(1, total)
