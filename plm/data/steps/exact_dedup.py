"""Drops a document whose text came before."""

import hashlib
from collections.abc import Iterator

from plm.data.documents import Document, Drops


def exact_dedup(documents: Iterator[Document], *, drops: Drops) -> Iterator[Document]:
    """Keep the first of equal texts; white space at the ends does not count.

    Drops: "seen before".
    """
    seen: set[bytes] = set()
    for document in documents:
        key = hashlib.blake2b(document.text.strip().encode(), digest_size=16).digest()
        if key in seen:
            drops["seen before"] += 1
            continue
        seen.add(key)
        yield document
