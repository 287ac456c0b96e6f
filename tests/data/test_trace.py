"""Each token of a batch is traced to its document, checked against the raw shards."""

import struct
from pathlib import Path

import numpy as np
import pytest

from plm.data.indexed import IndexedDataset, IndexedWriter
from plm.data.loader import assemble
from plm.data.order import Order
from plm.data.trace import Part, Trace, find_fingerprint, parts, trace
from plm.errors import ConfigError
from plm.phases import Plan


def owners(prefix: Path) -> tuple[np.ndarray, list[tuple[str, int]]]:
    """Tokens of a dataset, and of each one its document's name and place, from the files alone."""
    index = prefix.with_name(prefix.name + ".idx").read_bytes()
    code, documents = struct.unpack_from("<BQ", index, 17)
    lengths = struct.unpack_from(f"<{documents}i", index, 34)
    dtype = {4: "<i4", 8: "<u2"}[code]
    tokens = np.fromfile(prefix.with_name(prefix.name + ".bin"), dtype=dtype)
    names = prefix.with_name(prefix.name + ".names").read_text(encoding="utf-8").splitlines()
    assert len(names) == documents
    found = [(name, place) for name, n in zip(names, lengths, strict=True) for place in range(n)]
    assert len(found) == len(tokens)
    return tokens, found


def order_of(prepared, cursors=None) -> Order:
    # Two lengths of windows, two mixtures, and more tokens than `again` has: a second epoch.
    shared = {"global_batch_tokens": 256, "rate": {"shape": "hold", "to": 1.0}}
    again = prepared.sources["again"]["train"].n_tokens
    phases = {
        "short": {**shared, "tokens": 1024, "seq_len": 16, "mixture": {"text": 2, "again": 1}},
        "long": {**shared, "tokens": again + 512, "seq_len": 64, "mixture": {"again": 1}},
    }
    tokens = {name: of["train"].n_tokens for name, of in prepared.sources.items()}
    return Order(Plan.read(phases), tokens, prepared.block_tokens, seed=3, cursors=cursors)


@pytest.mark.parametrize("cursors", [None, {"text": 320, "again": 64}])
def test_every_token_of_a_run_is_where_the_raw_shards_have_it(tiny, cursors):
    prepared = tiny[2]
    order = order_of(prepared, cursors)
    raw = {name: owners(prepared.prefix(name, "train")) for name in order.names}
    streams = [prepared.sources[name]["train"] for name in order.names]
    epochs = set()
    for step in range(order.plan.total_steps):
        windows = order.windows(step)
        epochs |= set(windows.epoch.tolist())
        batch = assemble(streams, windows, isolate=False)
        text = np.concatenate([batch["tokens"], batch["labels"][:, -1:]], axis=1)
        for row in range(len(text)):
            name, offset = order.names[windows.source[row]], int(windows.offset[row])
            tokens, places = raw[name]
            assert text[row].tolist() == tokens[offset : offset + windows.seq_len + 1].tolist()
            for position in range(windows.seq_len + 1):
                document, place = places[offset + position]
                found = trace(prepared, order, step, row, position)
                assert found == Trace(name, document, place)
    assert epochs == {0, 1}


def test_parts_cover_each_window_as_the_raw_shards_do(tiny):
    prepared = tiny[2]
    _, places = owners(prepared.prefix("text", "train"))
    dataset = prepared.sources["text"]["train"]
    for offset in range(0, dataset.n_tokens - 200, 97):
        found = [
            (prepared.document_name("text", "train", part.document), part.offset + i)
            for part in parts(dataset, offset, 200)
            for i in range(part.stop - part.start)
        ]
        assert found == places[offset : offset + 200]


def test_parts_by_hand_with_empty_documents(tmp_path):
    with IndexedWriter(tmp_path / "some", np.dtype(np.uint16)) as writer:
        writer.add(np.arange(9), [3, 0, 0, 2, 4, 0])
    dataset = IndexedDataset(tmp_path / "some")
    assert parts(dataset, 0, 9) == [Part(0, 0, 3, 0, 3), Part(3, 3, 5, 0, 2), Part(4, 5, 9, 0, 4)]
    assert parts(dataset, 3, 1) == [Part(3, 0, 1, 0, 2)]
    assert parts(dataset, 4, 3) == [Part(3, 0, 1, 1, 2), Part(4, 1, 3, 0, 4)]
    assert parts(dataset, 8, 1) == [Part(4, 0, 1, 3, 4)]


@pytest.mark.parametrize(
    ("place", "text"),
    [
        ((-1, 0, 0), "step=-1 is not one of 0 to "),
        ((10**6, 0, 0), "step=1000000 is not one of 0 to "),
        ((0, 16, 0), "row=16 is not one of 0 to 15"),
        ((0, 0, 17), "position=17 is not one of 0 to 16"),
    ],
)
def test_what_is_not_there_is_named(tiny, place, text):
    with pytest.raises(ConfigError) as caught:
        trace(tiny[2], order_of(tiny[2]), *place)
    assert text in str(caught.value)


def test_data_are_found_by_their_fingerprint(tiny):
    prepared = tiny[2]
    data = prepared.folder.parent
    (data / "damaged").mkdir(exist_ok=True)
    (data / "damaged" / "manifest.json").write_text("{")
    assert find_fingerprint(data, prepared.fingerprint) == prepared.folder
    assert find_fingerprint(data, "0" * 64) is None
    assert find_fingerprint(data / "nowhere", prepared.fingerprint) is None
