"""How well counts alone predict: unigram, bigram and trigram baselines, in nats a token.

Papers: Kneser & Ney, Improved backing-off for m-gram language modeling (ICASSP 1995); Chen &
Goodman, An empirical study of smoothing techniques (TR-10-98, 1998).
Departs: interpolated, with Chen & Goodman's three discounts for each order (their "modified"
form); a single discount n1 / (n1 + 2 n2) where the counts of counts do not give three sound ones.

Tokens are predicted as a model is evaluated: within a document, the first token given, the
end-of-text token predicted. The context before a document's first token is the end-of-text token.
"""

import json
import os

import numpy as np

from plm.data.indexed import IndexedDataset
from plm.data.prepared import Prepared
from plm.data.tokenizer import load

CACHE = "ngrams.json"
# About a hundred bytes a token are held while they are counted.
MOST_TOKENS = 30_000_000


def ngram_baselines(prepared: Prepared) -> dict[str, dict[str, float]]:
    """Nats a token on each source's validation split, counted on its whole train split.

    Returns:
        By source: unigram, bigram_add_one, bigram_kneser_ney, trigram_kneser_ney. Kept in
        ngrams.json of the prepared folder, so that the second call reads a file. Conversations
        are left out, since only a part of their tokens is predicted, and so is a source whose
        train split is longer than MOST_TOKENS: all of its trigrams lie in memory.
    """
    cache = prepared.folder / CACHE
    if cache.is_file():
        return json.loads(cache.read_text(encoding="utf-8"))
    end = load(prepared.tokenizer_path).token_to_id(prepared.end_of_text)
    found = {
        name: baselines(parts["train"], parts["val"], prepared.vocab_size, end)
        for name, parts in prepared.sources.items()
        if name not in prepared.conversations and parts["train"].n_tokens <= MOST_TOKENS
    }
    partial = cache.with_name(f"{CACHE}.{os.getpid()}")
    partial.write_text(json.dumps(found, indent=1) + "\n", encoding="utf-8")
    os.replace(partial, cache)
    return found


def baselines(
    train: IndexedDataset, val: IndexedDataset, vocab_size: int, end: int
) -> dict[str, float]:
    """The four baselines of one source; see `ngram_baselines`."""
    seen, wanted = trigrams(train, vocab_size, end), trigrams(val, vocab_size, end)
    if not len(wanted):
        return {}
    model = KneserNey(seen, vocab_size)
    target = wanted % vocab_size
    counts = np.bincount(seen % vocab_size, minlength=vocab_size)
    unigram = (counts[target] + 1) / (counts.sum() + vocab_size)
    probabilities = {
        "unigram": unigram,
        "bigram_add_one": model.add_one(wanted),
        "bigram_kneser_ney": model.bigram(wanted),
        "trigram_kneser_ney": model.trigram(wanted),
    }
    return {name: float(-np.log(p).mean()) for name, p in probabilities.items()}


def trigrams(dataset: IndexedDataset, vocab_size: int, end: int) -> np.ndarray:
    """Every predicted token with the two before it: [N] int64, (a V + b) V + c.

    A document's first token is not predicted; before it stands the end-of-text token.
    """
    tokens = np.asarray(dataset.tokens(0, dataset.n_tokens)).astype(np.int64)
    if len(tokens) < 2:
        return np.empty(0, np.int64)
    before = np.concatenate([[end], tokens[:-2]])
    # The last token of a document is end-of-text, so that the neighbour before a first token is it.
    keys = (before * vocab_size + tokens[:-1]) * vocab_size + tokens[1:]
    predicted = np.ones(len(tokens), dtype=bool)
    starts = dataset.doc_starts
    predicted[starts[:-1][np.diff(starts) > 0]] = False
    return keys[predicted[1:]]


class _Order:
    """Discounted counts of one order: of the n-grams, and what each context holds in all."""

    def __init__(self, keys: np.ndarray, counts: np.ndarray, vocab_size: int) -> None:
        """Args:
        keys: [N] int64, sorted, the n-grams; counts: [N] int64.
        """
        self.vocab_size, self.keys, self.counts = vocab_size, keys, counts
        self.discounts = discounts(counts)
        taken = self.discounts[np.minimum(counts, 3)]
        contexts, first = np.unique(keys // vocab_size, return_index=True)
        self.contexts = contexts
        self.totals = np.add.reduceat(counts, first) if len(keys) else counts
        self.reserved = np.add.reduceat(taken, first) if len(keys) else taken

    def interpolate(self, wanted: np.ndarray, lower: np.ndarray) -> np.ndarray:
        """Probability of n-grams [M], given that of the order below [M]; that alone for a context
        never seen."""
        count = lookup(self.keys, self.counts, wanted)
        context = wanted // self.vocab_size
        total = lookup(self.contexts, self.totals, context)
        reserved = lookup(self.contexts, self.reserved, context)
        own = count - self.discounts[np.minimum(count, 3)]
        seen = total > 0
        return np.where(seen, (own + reserved * lower) / np.where(seen, total, 1), lower)


class KneserNey:
    """Interpolated modified Kneser-Ney over trigrams, with the bigram model that lies under it.

    Args:
        seen: [N] int64 trigram keys of the train split, in any order.
        vocab_size: V.
    """

    def __init__(self, seen: np.ndarray, vocab_size: int) -> None:
        self.vocab_size = vocab_size
        size = vocab_size
        three, counts3 = np.unique(seen, return_counts=True)
        two, counts2 = np.unique(seen % (size * size), return_counts=True)
        # Below the top order a count is the number of different tokens that came before.
        kinds2, after2 = np.unique(three % (size * size), return_counts=True)
        kinds1, after1 = np.unique(two % size, return_counts=True)
        self._three = _Order(three, counts3, size)
        self._two = _Order(two, counts2, size)
        self._two_kinds = _Order(kinds2, after2, size)
        self._one_kinds = _Order(kinds1, after1, size)

    def add_one(self, wanted: np.ndarray) -> np.ndarray:
        """Bigram with one added to every count: [M] float64."""
        pairs = wanted % (self.vocab_size * self.vocab_size)
        count = lookup(self._two.keys, self._two.counts, pairs)
        total = lookup(self._two.contexts, self._two.totals, pairs // self.vocab_size)
        return (count + 1) / (total + self.vocab_size)

    def bigram(self, wanted: np.ndarray) -> np.ndarray:
        """Kneser-Ney bigram of trigram keys [M], the first token ignored: [M] float64."""
        pairs = wanted % (self.vocab_size * self.vocab_size)
        return self._two.interpolate(pairs, self._unigram(pairs))

    def trigram(self, wanted: np.ndarray) -> np.ndarray:
        """Kneser-Ney trigram of trigram keys [M]: [M] float64."""
        pairs = wanted % (self.vocab_size * self.vocab_size)
        below = self._two_kinds.interpolate(pairs, self._unigram(pairs))
        return self._three.interpolate(wanted, below)

    def _unigram(self, pairs: np.ndarray) -> np.ndarray:
        uniform = np.full(len(pairs), 1 / self.vocab_size)
        return self._one_kinds.interpolate(pairs % self.vocab_size, uniform)


def discounts(counts: np.ndarray) -> np.ndarray:
    """Chen & Goodman's discounts for counts of 0, 1, 2 and 3 or more: [4] float64."""
    n1, n2, n3, n4 = ((counts == k).sum() for k in (1, 2, 3, 4))
    single = n1 / (n1 + 2 * n2) if n1 else 0.0
    if n1 and n2 and n3 and n4:
        three = [1 - 2 * single * n2 / n1, 2 - 3 * single * n3 / n2, 3 - 4 * single * n4 / n3]
        if all(0 < d < k for k, d in enumerate(three, start=1)):
            return np.array([0.0, *three])
    # A discount of 1 would leave nothing to a token seen once; keep it below.
    single = min(single, 0.95)
    return np.array([0.0, single, single, single])


def lookup(keys: np.ndarray, values: np.ndarray, wanted: np.ndarray) -> np.ndarray:
    """values at the wanted keys, 0 where there is none; keys sorted."""
    if not len(keys):
        return np.zeros(len(wanted), values.dtype)
    places = np.minimum(np.searchsorted(keys, wanted), len(keys) - 1)
    return np.where(keys[places] == wanted, values[places], np.zeros((), values.dtype))
