"""The shards' format against megatron-core's own reader and writer, both ways."""

from pathlib import Path

import numpy as np
import pytest
import torch

from plm.data.indexed import IndexedDataset, IndexedWriter

pytestmark = [
    pytest.mark.peers,
    # numpy 2 about torch, in megatron-core 0.16's add_document.
    pytest.mark.filterwarnings("ignore:__array__ implementation:DeprecationWarning"),
]

LARGEST = {"uint16": 65_535, "int32": 2**31 - 1}
DTYPES = tuple(LARGEST)


@pytest.fixture(scope="module")
def megatron():
    """megatron-core's module, or a skip that says what is missing."""
    return pytest.importorskip(
        "megatron.core.datasets.indexed_dataset", reason="needs megatron-core"
    )


def documents(dtype: str) -> list[np.ndarray]:
    """Of many lengths, among them none, one, and the type's extremes as tokens."""
    rng = np.random.default_rng(0)
    lengths = [3, 1, 0, 4096, 17, 0, 1, 250, *rng.integers(1, 60, size=40)]
    found = [rng.integers(0, LARGEST[dtype], size=n).astype(dtype) for n in lengths]
    found[0][:] = (0, LARGEST[dtype], 1)
    return found


@pytest.mark.parametrize("mmap", [True, False])
@pytest.mark.parametrize("dtype", DTYPES)
def test_megatron_reads_ours(megatron, tmp_path: Path, dtype: str, mmap: bool) -> None:
    written = documents(dtype)
    with IndexedWriter(tmp_path / "ours", np.dtype(dtype)) as writer:
        # Two documents a call, as portions of a preparation come.
        for pair in zip(written[::2], written[1::2], strict=True):
            writer.add(np.concatenate(pair), [len(document) for document in pair])
    read = megatron.IndexedDataset(str(tmp_path / "ours"), mmap=mmap)
    assert len(read) == len(written)
    assert read.index.dtype == np.dtype(dtype)
    assert read.sequence_lengths.tolist() == [len(document) for document in written]
    assert read.document_indices.tolist() == list(range(len(written) + 1))
    for index, document in enumerate(written):
        assert read[index].dtype == np.dtype(dtype)
        assert np.array_equal(read[index], document)
    assert np.array_equal(read.get(3, offset=1000, length=24), written[3][1000:1024])


def build(megatron, prefix: Path, dtype: str, made: list[list[np.ndarray]]) -> None:
    """Documents, each a list of sequences, as megatron-core writes them."""
    builder = megatron.IndexedDatasetBuilder(f"{prefix}.bin", dtype=np.dtype(dtype).type)
    for sequences in made:
        whole = np.concatenate(sequences)
        # torch has no constructor from uint16 in every version: int64 holds both types.
        builder.add_document(
            torch.from_numpy(whole.astype(np.int64)), [len(one) for one in sequences]
        )
    builder.finalize(f"{prefix}.idx")


def check(prefix: Path, dtype: str, made: list[list[np.ndarray]]) -> None:
    read = IndexedDataset(prefix)
    whole = [np.concatenate(sequences) for sequences in made]
    starts = np.concatenate([[0], np.cumsum([len(document) for document in whole])])
    assert read.dtype == np.dtype(dtype)
    assert (read.n_docs, read.n_tokens) == (len(made), int(starts[-1]))
    assert read.doc_starts.dtype == np.int64
    assert read.doc_starts.tolist() == starts.tolist()
    for index, document in enumerate(whole):
        assert np.array_equal(read.document(index), document)
    assert np.array_equal(read.tokens(0, read.n_tokens), np.concatenate(whole))


@pytest.mark.parametrize("dtype", DTYPES)
def test_we_read_megatrons(megatron, tmp_path: Path, dtype: str) -> None:
    made = [[document] for document in documents(dtype)]
    build(megatron, tmp_path / "theirs", dtype, made)
    check(tmp_path / "theirs", dtype, made)


@pytest.mark.parametrize("dtype", DTYPES)
def test_we_read_megatrons_documents_of_several_sequences(
    megatron, tmp_path: Path, dtype: str
) -> None:
    rest = documents(dtype)
    made = []
    # Of 1, 2, 3, 1, … sequences.
    while rest:
        size = 1 + len(made) % 3
        made.append(rest[:size])
        rest = rest[size:]
    build(megatron, tmp_path / "theirs", dtype, made)
    check(tmp_path / "theirs", dtype, made)


def test_we_read_what_add_item_wrote(megatron, tmp_path: Path) -> None:
    """Megatron's preprocessing adds sentence by sentence and ends the document afterwards."""
    made = [[np.array([5, 6]), np.array([7])], [np.array([8, 9, 10])]]
    builder = megatron.IndexedDatasetBuilder(str(tmp_path / "theirs.bin"), dtype=np.int32)
    for sequences in made:
        for sequence in sequences:
            builder.add_item(torch.from_numpy(sequence))
        builder.end_document()
    builder.finalize(str(tmp_path / "theirs.idx"))
    check(tmp_path / "theirs", "int32", made)


@pytest.mark.parametrize("dtype", DTYPES)
def test_the_files_are_equal_byte_by_byte(megatron, tmp_path: Path, dtype: str) -> None:
    written = documents(dtype)
    with IndexedWriter(tmp_path / "ours", np.dtype(dtype)) as writer:
        for document in written:
            writer.add(document, [len(document)])
    build(megatron, tmp_path / "theirs", dtype, [[document] for document in written])
    for end in ("bin", "idx"):
        assert (tmp_path / f"ours.{end}").read_bytes() == (tmp_path / f"theirs.{end}").read_bytes()
