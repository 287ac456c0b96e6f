"""Keeps the lines of a web page that look like sentences, and pages with some of them.

Paper: Raffel et al., T5 (arXiv:1910.10683), section 2.2
Departs: no list of bad words, no removal of repeated spans of three sentences (exact_dedup and
near_dedup look at documents), no test of the language (step `language`); a line that ends in an
ellipsis goes.
"""

import re
from collections import Counter
from collections.abc import Iterator

from plm.data.documents import Document, per_document
from plm.data.tally import Tally
from plm.errors import ConfigError

_POLICY = re.compile(
    r"terms of use|privacy policy|cookie policy|uses cookies|use of cookies|use cookies",
    re.IGNORECASE,
)
_JAVASCRIPT = re.compile("javascript", re.IGNORECASE)
_LOREM = re.compile("lorem ipsum", re.IGNORECASE)
_CITATION = re.compile(r" ?\[\d{1,4}\]| ?\[(?:citation needed|edit)\]", re.IGNORECASE)
_SENTENCE_END = re.compile(r"[.!?][\"'”’)]*(?=\s|\Z)")
_TERMINAL = (".", "!", "?", '"', "”")


@per_document
def c4(
    documents: Iterator[Document],
    *,
    tally: Tally,
    min_words: int = 5,
    min_sentences: int = 3,
    terminal: tuple[str, ...] = _TERMINAL,
    curly_brackets: bool = False,
) -> Iterator[Document]:
    """Take out lines that are no sentence, and drop pages that hold code, filler or too little.

    Args:
        documents: normalised; a paragraph is one line.
        tally: told what is left out, and why; a line that breaks several rules counts for the
            first of them.
        min_words: in a line.
        min_sentences: in what is left of the page.
        terminal: what a line must end with.
        curly_brackets: whether pages may hold "{".
    Raises:
        ConfigError: no `terminal`, or a number is negative.

    Drops: "curly bracket", "lorem ipsum", "few sentences".
    Changes, in lines: "line without an end", "short line", "line on javascript", "line on policy";
    in places: "citation mark".
    """
    _check(min_words, min_sentences, terminal)
    for document in documents:
        text = document.text
        if "{" in text and not curly_brackets:
            tally.drop("curly bracket", document.name, text)
            continue
        if _LOREM.search(text):
            tally.drop("lorem ipsum", document.name, text)
            continue
        kept, gone, shown = _lines(text, tuple(terminal), min_words)
        left = "\n".join(kept)
        if len(_SENTENCE_END.findall(left)) < min_sentences or not left:
            tally.drop("few sentences", document.name, text)
            continue
        for reason, places in gone.items():
            tally.change(reason, document.name, shown[reason], places)
        yield Document(left + "\n", document.name, document.group)


def _check(min_words: int, min_sentences: int, terminal: tuple[str, ...]) -> None:
    if not terminal or "" in terminal or isinstance(terminal, str):
        raise ConfigError(f"c4: terminal={terminal!r} must be a list of marks, for example ['.']")
    if min_words < 0 or min_sentences < 0:
        raise ConfigError(
            f"c4: min_words={min_words} and min_sentences={min_sentences} must not be negative"
        )


def _lines(
    text: str, ends: tuple[str, ...], min_words: int
) -> tuple[list[str], Counter[str], dict[str, str]]:
    """Lines kept; by reason how many places went, and one of them."""
    kept: list[str] = []
    gone: Counter[str] = Counter()
    shown: dict[str, str] = {}
    for line in map(str.strip, text.split("\n")):
        if not line:
            continue
        bare, marks = _CITATION.subn("", line)
        reason = _refused(bare.rstrip(), ends, min_words)
        if not reason:
            kept.append(bare.rstrip())
            if not marks:
                continue
        reason, places = (reason, 1) if reason else ("citation mark", marks)
        gone[reason] += places
        shown.setdefault(reason, line)
    return kept, gone, shown


def _refused(line: str, ends: tuple[str, ...], min_words: int) -> str:
    if not line.endswith(ends) or line.endswith("..."):
        return "line without an end"
    if len(line.split()) < min_words:
        return "short line"
    if _JAVASCRIPT.search(line):
        return "line on javascript"
    return "line on policy" if _POLICY.search(line) else ""
