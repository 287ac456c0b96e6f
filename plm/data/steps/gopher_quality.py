"""Rules on the words and lines of English running text.

Paper: Rae et al., Gopher (arXiv:2112.11446), appendix A1.1, "quality filtering"
Departs: nothing in the limits; a word is what stands between blanks.
"""

import re
from collections.abc import Iterator

from plm.data.documents import Document, per_document
from plm.data.tally import Tally
from plm.errors import ConfigError

_BULLETS = ("•", "‣", "▪", "●", "◦", "·", "- ", "* ", "– ")
_ELLIPSES = ("...", "…")
_LETTER = re.compile(r"[^\W\d_]")
_WORD = re.compile(r"\w+")
_STOP_WORDS = ("the", "be", "to", "of", "and", "that", "have", "with")


@per_document
def gopher_quality(
    documents: Iterator[Document],
    *,
    tally: Tally,
    words: tuple[int, int] = (50, 100_000),
    word_length: tuple[float, float] = (3.0, 10.0),
    max_symbol_ratio: float = 0.1,
    max_bullet_lines: float = 0.9,
    max_ellipsis_lines: float = 0.3,
    min_alphabetic_words: float = 0.8,
    min_stop_words: int = 2,
    stop_words: tuple[str, ...] = _STOP_WORDS,
) -> Iterator[Document]:
    """Keep a document that all rules hold for; the first that fails is its reason.

    Args:
        documents, tally: normalised; told what is left out, and why.
        words: their number, from and to.
        word_length: mean length of a word, in characters, from and to.
        max_symbol_ratio: of "#" to words, and of "..." or "…" to words.
        max_bullet_lines: share of the lines that begin with a bullet.
        max_ellipsis_lines: share of the lines that end with an ellipsis.
        min_alphabetic_words: share of the words with a letter.
        min_stop_words: how many different ones of `stop_words` must occur; 0 for other languages.
        stop_words: in lower case.
    Raises:
        ConfigError: a range is upside down, or more stop words are wanted than there are.

    Drops: "number of words", "word length", "hash signs", "ellipses", "bullet lines",
    "ellipsis lines", "few words with letters", "few stop words".
    """
    _check(words, word_length, min_stop_words, stop_words)
    wanted = frozenset(stop_words)
    for document in documents:
        n_words = len(document.text.split())
        share = _shares(document.text)
        found = wanted.intersection(_WORD.findall(document.text.lower()))
        broken = {
            "number of words": not words[0] <= n_words <= words[1],
            "word length": not word_length[0] <= share["word_length"] <= word_length[1],
            "hash signs": share["hash_signs"] > max_symbol_ratio,
            "ellipses": share["ellipses"] > max_symbol_ratio,
            "bullet lines": share["bullet_lines"] > max_bullet_lines,
            "ellipsis lines": share["ellipsis_lines"] > max_ellipsis_lines,
            "few words with letters": share["alphabetic_words"] < min_alphabetic_words,
            "few stop words": len(found) < min_stop_words,
        }
        if any(broken.values()):
            reason = next(reason for reason, holds in broken.items() if holds)
            tally.drop(reason, document.name, document.text)
        else:
            yield document


def _check(
    words: tuple[int, int],
    word_length: tuple[float, float],
    min_stop_words: int,
    stop_words: tuple[str, ...],
) -> None:
    for name, (least, most) in (("words", words), ("word_length", word_length)):
        if least > most:
            raise ConfigError(f"gopher_quality: {name}=[{least}, {most}]: the first is larger")
    if min_stop_words > len(set(stop_words)):
        raise ConfigError(
            f"gopher_quality: min_stop_words={min_stop_words}, but stop_words has "
            f"{len(set(stop_words))}; lower it or add words"
        )


def _shares(text: str) -> dict[str, float]:
    words = text.split()
    lines = [line.strip() for line in text.split("\n") if line.strip()]
    n_words, n_lines = max(1, len(words)), max(1, len(lines))
    return {
        "word_length": sum(map(len, words)) / n_words,
        "hash_signs": text.count("#") / n_words,
        "ellipses": sum(map(text.count, _ELLIPSES)) / n_words,
        "bullet_lines": sum(line.startswith(_BULLETS) for line in lines) / n_lines,
        "ellipsis_lines": sum(line.endswith(_ELLIPSES) for line in lines) / n_lines,
        "alphabetic_words": sum(_LETTER.search(word) is not None for word in words) / n_words,
    }
