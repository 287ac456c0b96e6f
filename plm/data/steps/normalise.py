"""One kind of newline, no trailing white space; characters stay as they are (no NFC)."""

import re
from collections.abc import Iterator

from plm.data.documents import Document, per_document
from plm.data.tally import Tally

# The lookbehind keeps a long run of blanks within a line from being tried from each of its places.
_TRAILING = re.compile(r"(?<![ \t])[ \t]+$", re.MULTILINE)
_BLANK = re.compile(r"\n{4,}")


@per_document
def normalise(documents: Iterator[Document], *, tally: Tally) -> Iterator[Document]:
    """Newlines to \\n, no byte-order mark, no trailing blanks, two empty lines in a row at most.

    Drops: "empty".
    """
    for document in documents:
        text = document.text.removeprefix("\ufeff").replace("\r\n", "\n").replace("\r", "\n")
        text = _BLANK.sub("\n\n\n", _TRAILING.sub("", text)).strip("\n")
        if not text.strip():
            tally.drop("empty", document.name, document.text)
            continue
        yield Document(text + "\n", document.name, document.group)
