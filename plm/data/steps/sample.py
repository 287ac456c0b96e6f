"""Keeps a share of the documents, the same ones whatever their order and the workers."""

import hashlib
from collections.abc import Iterator

from plm.data.documents import Document, per_document
from plm.data.tally import Tally
from plm.errors import ConfigError


@per_document
def sample(
    documents: Iterator[Document], *, tally: Tally, share: float, seed: int = 0
) -> Iterator[Document]:
    """Keep a document if the hash of seed and text falls into `share`.

    A text's draw is its own: equal texts stay or go together, and with one seed a larger share
    keeps all that a smaller one keeps.

    Args:
        documents: in any order.
        tally: told what is left out.
        share: of the documents, above 0 and at most 1, as long as their texts differ.
        seed: another one draws other documents.
    Raises:
        ConfigError: share is not in (0, 1].

    Drops: "not drawn".
    """
    if not 0 < share <= 1:
        raise ConfigError(f"sample: share={share} is not in (0, 1]; leave the step out to keep all")
    for document in documents:
        draw = hashlib.blake2b(f"{seed}/".encode(), digest_size=8)
        draw.update(document.text.encode())
        if int.from_bytes(draw.digest(), "big") < share * 2**64:
            yield document
        else:
            tally.drop("not drawn", document.name, document.text)
