"""The shards' format: bytes as Megatron writes them, and what is refused."""

import errno
import os
import struct

import numpy as np
import pytest

from plm.data.indexed import IndexedDataset, IndexedWriter, token_dtype
from plm.errors import DataError


def write(prefix, documents, dtype="uint16"):
    with IndexedWriter(prefix, np.dtype(dtype)) as writer:
        for document in documents:
            writer.add(np.array(document), [len(document)])


def test_bytes_are_megatrons(tmp_path):
    write(tmp_path / "a", [[1, 2, 3], [4], [5, 6]])
    head = b"MMIDIDX\x00\x00" + struct.pack("<QBQQ", 1, 8, 3, 4)
    body = (
        struct.pack("<3i", 3, 1, 2) + struct.pack("<3q", 0, 6, 8) + struct.pack("<4q", 0, 1, 2, 3)
    )
    assert (tmp_path / "a.idx").read_bytes() == head + body
    assert (tmp_path / "a.bin").read_bytes() == struct.pack("<6H", 1, 2, 3, 4, 5, 6)


@pytest.mark.parametrize(("dtype", "code"), [("uint16", 8), ("int32", 4)])
def test_round_trip(tmp_path, dtype, code):
    documents = [[7, 0, 65_534], [9], [], [3, 3]]
    write(tmp_path / "a", documents, dtype)
    data = IndexedDataset(tmp_path / "a")
    assert (tmp_path / "a.idx").read_bytes()[17] == code
    assert data.dtype == np.dtype(dtype)
    assert (data.n_docs, data.n_tokens) == (4, 6)
    assert data.doc_starts.dtype == np.int64
    assert data.doc_starts.tolist() == [0, 3, 4, 4, 6]
    assert data.tokens(2, 3).tolist() == [65_534, 9, 3]
    assert [data.document(i).tolist() for i in range(4)] == documents
    with pytest.raises(IndexError):
        data.tokens(5, 2)


def test_a_document_may_come_in_parts(tmp_path):
    with IndexedWriter(tmp_path / "a", np.dtype("uint16")) as writer:
        writer.add(np.array([1, 2]), [])
        writer.add(np.array([3, 4, 5]), [3, 2])
    assert IndexedDataset(tmp_path / "a").doc_starts.tolist() == [0, 3, 5]


def test_several_sequences_a_document(tmp_path):
    """Megatron's own files may hold documents of several sequences."""
    write(tmp_path / "a", [[1, 2], [3], [4, 5, 6]])
    index = tmp_path / "a.idx"
    head = b"MMIDIDX\x00\x00" + struct.pack("<QBQQ", 1, 8, 3, 3)
    body = index.read_bytes()[len(head) : len(head) + 36]
    index.write_bytes(head + body + struct.pack("<3q", 0, 2, 3))
    assert IndexedDataset(tmp_path / "a").doc_starts.tolist() == [0, 3, 6]


def test_types_by_vocabulary():
    assert token_dtype(65_535) == np.uint16
    assert token_dtype(65_536) == np.int32
    with pytest.raises(DataError, match="vocab_size=3000000000 does not fit int32"):
        token_dtype(3_000_000_000)


def test_a_token_too_large_is_refused_and_nothing_stays(tmp_path):
    with pytest.raises(DataError, match="token 70000 does not fit uint16"):
        write(tmp_path / "a", [[1], [70_000]])
    assert list(tmp_path.iterdir()) == []


def test_a_full_disk_is_one_line_and_nothing_stays(tmp_path, monkeypatch):
    def full(descriptor):
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(DataError, match="the disk is full"):
        write(tmp_path / "a", [[1, 2]])
    assert list(tmp_path.iterdir()) == []


def test_damage_is_named(tmp_path):
    write(tmp_path / "a", [[1, 2, 3]])
    with pytest.raises(DataError, match=r"b\.idx: no such file"):
        IndexedDataset(tmp_path / "b")
    (tmp_path / "a.bin").write_bytes(b"\1\0")
    with pytest.raises(DataError, match=r"a\.bin: 2 bytes, but its index says 3 tokens"):
        IndexedDataset(tmp_path / "a")
    (tmp_path / "a.idx").write_bytes((tmp_path / "a.idx").read_bytes()[:-1])
    with pytest.raises(DataError, match="do not fit its 1 sequences"):
        IndexedDataset(tmp_path / "a")
    (tmp_path / "a.idx").write_bytes(b"something else")
    with pytest.raises(DataError, match="not a Megatron index"):
        IndexedDataset(tmp_path / "a")
