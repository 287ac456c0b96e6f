"""Takes off the licence that opens a source file: the same lines stand in thousands of them."""

import re
from collections.abc import Iterator

from plm.data.documents import Document, per_document
from plm.data.tally import Tally

_HEADER = re.compile(r"\A(?:#!.*\n)?(?:#.*-\*-.*\n)?\s*((?:#.*\n|\s*\n)+)")
_LEGAL = re.compile(r"licen[cs]e|copyright", re.IGNORECASE)


@per_document
def licence_header(documents: Iterator[Document], *, tally: Tally) -> Iterator[Document]:
    """Remove the leading comment block where it speaks of a licence or of copyright.

    The licences themselves are in the manifest.

    Drops: "nothing but a licence".
    """
    for document in documents:
        text = document.text
        match = _HEADER.match(text)
        if match and _LEGAL.search(match.group(0)):
            text = text[match.end() :]
        if not text.strip():
            tally.drop("nothing but a licence", document.name, document.text)
            continue
        yield Document(text, document.name, document.group)
