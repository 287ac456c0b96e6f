"""Rules on the lines of a web page, against lists, menus and repeated parts.

Paper: Penedo et al., FineWeb (arXiv:2406.17557), section 3.6
Departs: the rule on newlines is of the authors' code (datatrove 0.10.1), not of the paper; the
code also sets the limit on repeated lines to 0.01.
"""

from collections.abc import Iterator

from plm.data.documents import Document, per_document
from plm.data.tally import Tally
from plm.errors import ConfigError

_ENDS = tuple(".!?…\"'”’。！？؟।")


@per_document
def fineweb(
    documents: Iterator[Document],
    *,
    tally: Tally,
    min_ended_lines: float = 0.12,
    max_short_lines: float = 0.67,
    short_line: int = 30,
    max_repeated_chars: float = 0.1,
    max_newlines: float = 0.3,
) -> Iterator[Document]:
    """Keep a document that all rules hold for; the first that fails is its reason.

    Args:
        documents: normalised; empty lines do not count as lines.
        tally: told what is left out, and why.
        min_ended_lines: least share of lines that end in the punctuation of a sentence.
        max_short_lines: largest share of lines shorter than `short_line`.
        short_line: in characters.
        max_repeated_chars: largest share of characters in lines that came before.
        max_newlines: newlines to words, empty lines included.
    Raises:
        ConfigError: a share is not in [0, 1], or another number is not positive.

    Drops: "lines without an end", "short lines", "repeated lines", "many newlines".
    """
    _check(
        {
            "min_ended_lines": min_ended_lines,
            "max_short_lines": max_short_lines,
            "max_repeated_chars": max_repeated_chars,
        },
        {"short_line": short_line, "max_newlines": max_newlines},
    )
    for document in documents:
        share = _shares(document.text, short_line)
        if share["ended_lines"] < min_ended_lines:
            reason = "lines without an end"
        elif share["short_lines"] > max_short_lines:
            reason = "short lines"
        elif share["repeated_chars"] > max_repeated_chars:
            reason = "repeated lines"
        elif share["newlines"] > max_newlines:
            reason = "many newlines"
        else:
            yield document
            continue
        tally.drop(reason, document.name, document.text)


def _check(shares: dict[str, float], positive: dict[str, float]) -> None:
    for name, share in shares.items():
        if not 0 <= share <= 1:
            raise ConfigError(f"fineweb: {name}={share} is not in [0, 1]")
    for name, value in positive.items():
        if not value > 0:
            raise ConfigError(f"fineweb: {name}={value} is not positive")


def _shares(text: str, short_line: int) -> dict[str, float]:
    lines = [line.strip() for line in text.split("\n") if line.strip()]
    n_lines, chars = max(1, len(lines)), sum(map(len, lines))
    return {
        "ended_lines": sum(line.endswith(_ENDS) for line in lines) / n_lines,
        "short_lines": sum(len(line) < short_line for line in lines) / n_lines,
        "repeated_chars": (chars - sum(map(len, set(lines)))) / max(1, chars),
        "newlines": text.strip().count("\n") / max(1, len(text.split())),
    }
