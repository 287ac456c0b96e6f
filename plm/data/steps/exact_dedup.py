"""Drops a document whose text came before."""

import hashlib
from collections.abc import Iterator

from plm.data.documents import Document
from plm.data.tally import Tally


def exact_dedup(documents: Iterator[Document], *, tally: Tally) -> Iterator[Document]:
    """Keep the first of equal texts; white space at the ends does not count.

    Drops: "seen before".
    """
    seen: set[bytes] = set()
    for document in documents:
        key = hashlib.blake2b(document.text.strip().encode(), digest_size=16).digest()
        if key in seen:
            tally.drop("seen before", document.name, document.text)
            continue
        seen.add(key)
        yield document
