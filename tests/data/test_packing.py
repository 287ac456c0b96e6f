"""Whole documents in windows: by hand, and against what best fit promises."""

from itertools import pairwise

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from plm.batch import IGNORE_INDEX
from plm.data.indexed import IndexedDataset, IndexedWriter
from plm.data.loader import assemble
from plm.data.order import Windows
from plm.data.packing import PackedStream, pack, write_packing


def test_by_hand():
    bins, documents = pack(np.array([3, 9, 5, 2, 8, 0, 3]), 8)
    # 8 alone; 5 with 3; 3 with 2. Nine is too long, and an empty document has nothing to say.
    assert [documents[a:b].tolist() for a, b in pairwise(bins)] == [
        [4],
        [0, 2],
        [3, 6],
    ]


@given(st.lists(st.integers(0, 40), max_size=200), st.integers(1, 32))
@settings(max_examples=60, deadline=None)
def test_every_document_once_and_no_two_half_empty_windows(lengths, size):
    lengths = np.array(lengths, dtype=np.int64)
    bins, documents = pack(lengths, size)
    fits = np.flatnonzero((lengths <= size) & (lengths > 0))
    assert sorted(documents) == fits.tolist()
    used = [lengths[documents[a:b]].sum() for a, b in pairwise(bins)]
    assert all(0 < u <= size for u in used)
    assert sum(u <= size // 2 for u in used) <= 1


@pytest.fixture
def stream(tmp_path):
    """Documents of 3, 9, 5, 2, 8 and 3 tokens, each counting up from 100 times its number."""
    lengths = [3, 9, 5, 2, 8, 3]
    tokens = np.concatenate([100 * i + np.arange(n) for i, n in enumerate(lengths, 1)])
    with IndexedWriter(tmp_path / "a", np.uint16) as writer:
        writer.add(tokens, lengths)
    said = write_packing(tmp_path / "a", 8)
    assert said == {"windows": 3, "size": 8, "utilisation": 21 / 24, "too_long": 1}
    return PackedStream(IndexedDataset(tmp_path / "a"), 8)


def test_windows_hold_whole_documents(stream):
    assert stream.n_tokens == 25
    zeros = np.zeros(3, dtype=np.int64)
    found = assemble([stream], Windows(zeros, np.array([16, 0, 8]), zeros, 8), isolate=True)
    end = 602
    assert found["tokens"].tolist() == [
        [400, 401, 600, 601, 602, end, end, end],
        [500, 501, 502, 503, 504, 505, 506, 507],
        [100, 101, 102, 300, 301, 302, 303, 304],
    ]
    no = IGNORE_INDEX
    assert found["labels"].tolist() == [
        [401, no, 601, 602, no, no, no, no],
        [501, 502, 503, 504, 505, 506, 507, no],
        [101, 102, no, 301, 302, 303, 304, no],
    ]
    assert found["positions"].tolist()[0] == [0, 1, 0, 1, 2, 0, 1, 2]
    assert found["doc_ids"].tolist()[0] == [0, 0, 1, 1, 1, 2, 2, 2]
    assert stream.documents.tolist() == [4, 0, 2, 3, 5, -1]
    assert stream.doc_starts.tolist() == [0, 8, 11, 16, 18, 21, 24]


def test_windows_are_read_whole(stream):
    with pytest.raises(ValueError, match="packed windows of 8 are read whole, not 5 long"):
        stream.windows(np.array([0]), 5)
