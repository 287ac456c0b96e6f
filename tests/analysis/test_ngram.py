"""The baselines against a slow, plain count, and against the laws of probability."""

from collections import Counter
from math import log

import numpy as np
import pytest

from plm.analysis.ngram import (
    KneserNey,
    baselines,
    discounts,
    lookup,
    ngram_baselines,
    trigrams,
)
from plm.data.indexed import IndexedDataset, IndexedWriter

END = 0


def dataset(prefix, documents):
    with IndexedWriter(prefix, np.dtype("uint16")) as writer:
        for document in documents:
            writer.add(np.array(document), [len(document)])
    return IndexedDataset(prefix)


def documents(seed, n, vocab):
    rng = np.random.default_rng(seed)
    weights = 1 / np.arange(1, vocab)
    draws = [
        rng.choice(np.arange(1, vocab), rng.integers(1, 12), p=weights / weights.sum())
        for _ in range(n)
    ]
    return [[*draw.tolist(), END] for draw in draws]


def plain(documents):
    """(two before, one before, token) of every prediction."""
    return [
        (document[i - 2] if i > 1 else END, document[i - 1], document[i])
        for document in documents
        for i in range(1, len(document))
    ]


class Plain:
    """Interpolated Kneser-Ney from dictionaries, as the papers write it."""

    def __init__(self, events, vocab):
        self.vocab = vocab
        self.three = Counter(events)
        self.two = Counter((b, c) for _, b, c in events)
        self.two_kinds = Counter((b, c) for _, b, c in self.three)
        self.one_kinds = Counter((c,) for _, c in self.two)
        tables = (self.three, self.two, self.two_kinds, self.one_kinds)
        self.cuts = {id(t): discounts(np.array(list(t.values()))) for t in tables}

    def level(self, table, gram, lower):
        cut = self.cuts[id(table)]
        context = {g: n for g, n in table.items() if g[:-1] == gram[:-1]}
        total = sum(context.values())
        if not total:
            return lower
        kept = sum(cut[min(n, 3)] for n in context.values())
        count = table.get(gram, 0)
        return (count - cut[min(count, 3)] + kept * lower) / total

    def unigram(self, c):
        return self.level(self.one_kinds, (c,), 1 / self.vocab)

    def bigram(self, b, c):
        return self.level(self.two, (b, c), self.unigram(c))

    def trigram(self, a, b, c):
        return self.level(
            self.three, (a, b, c), self.level(self.two_kinds, (b, c), self.unigram(c))
        )


def keys(events, vocab):
    return np.array([(a * vocab + b) * vocab + c for a, b, c in events], dtype=np.int64)


@pytest.mark.parametrize(("n", "vocab"), [(4, 5), (40, 7), (150, 13)])
def test_against_a_plain_count(tmp_path, n, vocab):
    train, val = documents(1, n, vocab), documents(2, 12, vocab)
    events = plain(train)
    slow = Plain(events, vocab)
    fast = KneserNey(keys(events, vocab), vocab)
    wanted = plain(val)
    np.testing.assert_allclose(
        fast.bigram(keys(wanted, vocab)), [slow.bigram(b, c) for _, b, c in wanted], rtol=1e-12
    )
    np.testing.assert_allclose(
        fast.trigram(keys(wanted, vocab)), [slow.trigram(*e) for e in wanted], rtol=1e-12
    )
    found = baselines(dataset(tmp_path / "t", train), dataset(tmp_path / "v", val), vocab, END)
    ones = Counter(c for _, _, c in events)
    contexts = Counter(b for _, b, _ in events)

    def mean(probabilities):
        return -sum(map(log, probabilities)) / len(wanted)

    expected = {
        "unigram": mean((ones[c] + 1) / (len(events) + vocab) for _, _, c in wanted),
        "bigram_add_one": mean((slow.two[b, c] + 1) / (contexts[b] + vocab) for _, b, c in wanted),
        "bigram_kneser_ney": mean(slow.bigram(b, c) for _, b, c in wanted),
        "trigram_kneser_ney": mean(slow.trigram(*e) for e in wanted),
    }
    assert found == pytest.approx(expected, rel=1e-12)


def test_probabilities_sum_to_one():
    vocab = 9
    model = KneserNey(keys(plain(documents(3, 60, vocab)), vocab), vocab)
    contexts = [(a, b) for a in range(vocab) for b in range(vocab)]
    for probability in (model.add_one, model.bigram, model.trigram):
        for a, b in contexts:
            p = probability(keys([(a, b, c) for c in range(vocab)], vocab))
            assert p.min() > 0
            assert p.sum() == pytest.approx(1, abs=1e-12)


def test_what_is_predicted(tmp_path):
    data = dataset(tmp_path / "a", [[5, 6, 7, END], [END], [8, END], [9, 9, END]])
    expected = [(END, 5, 6), (5, 6, 7), (6, 7, END), (END, 8, END), (END, 9, 9), (9, 9, END)]
    assert trigrams(data, 10, END).tolist() == keys(expected, 10).tolist()
    assert len(trigrams(dataset(tmp_path / "b", [[END]]), 10, END)) == 0


def test_discounts_by_hand():
    counts = np.array([1] * 50 + [2] * 20 + [3] * 10 + [4] * 6 + [9])
    y = 50 / 90
    assert discounts(counts) == pytest.approx(
        [0, 1 - 2 * y * 20 / 50, 2 - 3 * y * 10 / 20, 3 - 4 * y * 6 / 10]
    )
    assert discounts(np.array([1, 1, 2])) == pytest.approx([0, 0.5, 0.5, 0.5])
    assert discounts(np.array([1, 1])) == pytest.approx([0, 0.95, 0.95, 0.95])
    assert discounts(np.array([5])).tolist() == [0, 0, 0, 0]


def test_lookup():
    table = np.array([2, 5, 9]), np.array([20, 50, 90])
    assert lookup(*table, np.array([5, 1, 9, 10, 2])).tolist() == [50, 0, 90, 0, 20]
    assert lookup(table[0][:0], table[1][:0], np.array([1])).tolist() == [0]


def test_kept_beside_the_shards(tmp_path):
    from plm.data import tokenizer as bpe

    class Made:
        folder = tmp_path
        vocab_size = 13
        tokenizer_path = tmp_path / "tokenizer.json"
        end_of_text = bpe.END_OF_TEXT
        conversations = ("talk",)

    made = bpe.train(["text"], vocab_size=300, special_tokens=[bpe.END_OF_TEXT])
    bpe.save(made, Made.tokenizer_path)
    parts = {"train": documents(1, 60, 13), "val": documents(2, 9, 13)}
    Made.sources = {"s": {k: dataset(tmp_path / k, v) for k, v in parts.items()}, "talk": {}}
    first = ngram_baselines(Made)
    assert set(first) == {"s"}
    assert first["s"]["trigram_kneser_ney"] < log(13)
    Made.sources = None
    assert ngram_baselines(Made) == first
