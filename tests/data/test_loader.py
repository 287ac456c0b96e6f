"""Windows become tensors: labels, documents, positions, shares of ranks."""

import numpy as np
import torch

from plm.batch import IGNORE_INDEX
from plm.data.loader import Batches, assemble, cumulative_lengths
from plm.data.order import Order, Windows
from plm.phases import Plan


class Stream:
    """Tokens 0, 1, 2 … with documents that start at the given places."""

    def __init__(self, starts: list[int], size: int) -> None:
        self.doc_starts = np.array([*starts, size])
        self.n_tokens = size

    def windows(self, offsets: np.ndarray, size: int) -> np.ndarray:
        return offsets[:, None] + np.arange(size)


def windows(*offsets: int, seq_len: int = 6) -> Windows:
    zeros = np.zeros(len(offsets), dtype=np.int64)
    return Windows(zeros, np.array(offsets), zeros, seq_len)


def test_isolated_documents() -> None:
    found = assemble([Stream([0, 4, 9], 40)], windows(2, 4), isolate=True)
    assert found["tokens"].tolist() == [[2, 3, 4, 5, 6, 7], [4, 5, 6, 7, 8, 9]]
    # The end of a document does not predict the start of the next one.
    assert found["labels"].tolist() == [
        [3, IGNORE_INDEX, 5, 6, 7, 8],
        [5, 6, 7, 8, IGNORE_INDEX, 10],
    ]
    assert found["positions"].tolist() == [[0, 1, 0, 1, 2, 3], [0, 1, 2, 3, 4, 0]]
    assert found["doc_ids"].tolist() == [[0, 0, 1, 1, 1, 1], [0, 0, 0, 0, 0, 1]]
    lengths = cumulative_lengths(found["positions"])
    assert lengths.tolist() == [0, 2, 6, 11, *[12] * 9]


def test_label_that_starts_a_document_after_the_window_is_dropped() -> None:
    found = assemble([Stream([0, 6], 40)], windows(0), isolate=True)
    assert found["labels"].tolist() == [[1, 2, 3, 4, 5, IGNORE_INDEX]]


def test_without_isolation_nothing_is_dropped() -> None:
    found = assemble([Stream([0, 4], 40)], windows(2), isolate=False)
    assert "doc_ids" not in found
    assert found["labels"].tolist() == [[3, 4, 5, 6, 7, 8]]
    assert found["positions"].tolist() == [[0, 1, 2, 3, 4, 5]]


def test_micro_batches_and_ranks_make_up_the_step() -> None:
    rate = {"shape": "hold", "to": 1.0}
    plan = Plan.read({"x": {"tokens": 640, "seq_len": 8, "global_batch_tokens": 64,
                            "mixture": {"a": 1}, "rate": rate}})  # fmt: skip
    stream = Stream([0, 11, 25], 2000)
    order = Order(plan, {"a": 2000}, 8, seed=0)
    whole = list(Batches(order, [stream], micro_batch_size=8).step(3))
    assert len(whole) == 1
    assert whole[0].first
    assert whole[0].last
    rows = []
    for rank in range(2):
        parts = list(Batches(order, [stream], micro_batch_size=3, rank=rank, world_size=2).step(3))
        assert [part.first for part in parts] == [True, False]
        assert [part.last for part in parts] == [False, True]
        assert [part.first_row for part in parts] == [4 * rank, 4 * rank + 3]
        assert all(part.rows_in_step == 8 for part in parts)
        rows += [part.tokens for part in parts]
    assert torch.equal(torch.cat(rows), whole[0].tokens)


def test_a_single_row_keeps_its_tokens() -> None:
    found = assemble([Stream([0, 4, 9], 40)], windows(2), isolate=True)
    assert found["tokens"].tolist() == [[2, 3, 4, 5, 6, 7]]
