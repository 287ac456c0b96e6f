"""Datasets that another trainer wrote, used where they lie."""

import numpy as np
import pytest
import yaml

from plm.data.indexed import IndexedDataset, IndexedWriter
from plm.data.prepare import prepare
from plm.data.recipe import load_recipe
from plm.errors import ConfigError, DataError


@pytest.fixture
def made(tmp_path, tiny):
    """(recipe over foreign shards, their prefix), with the tokenizer of `tiny`."""
    prefix = tmp_path / "theirs" / "corpus_text_document"
    prefix.parent.mkdir()
    rng = np.random.default_rng(0)
    lengths = rng.integers(3, 40, 200)
    with IndexedWriter(prefix, np.int32) as writer:
        writer.add(rng.integers(0, 290, lengths.sum()), lengths.tolist())
    return write(tmp_path, tiny, {"train": str(prefix)}), prefix


def write(folder, tiny, shards, **change):
    source = {"shards": shards, "licence": "theirs", "revision": "1", **change}
    source["split"] = {"val_share": 0.1}
    content = {"sources": {"web": source}, "tokenizer": {"file": str(tiny[2].tokenizer_path)}}
    (folder / "theirs.yaml").write_text(yaml.safe_dump(content))
    return folder / "theirs.yaml"


def prepared(recipe, folder, **change):
    settings = {"vocab_size": 300, "block_tokens": 64, "workers": 1, **change}
    return prepare(load_recipe(recipe), data_dir=folder, **settings)


def test_used_where_they_lie(made, tmp_path):
    recipe, prefix = made
    found = prepared(recipe, tmp_path / "data")
    theirs = IndexedDataset(prefix)
    train, val = found.sources["web"]["train"], found.sources["web"]["val"]
    assert (found.folder / "web-train.bin").resolve() == prefix.with_suffix(".bin")
    assert train.n_docs + val.n_docs == theirs.n_docs
    assert 0.08 < val.n_tokens / theirs.n_tokens <= 0.1
    joined = np.concatenate([train.tokens(0, train.n_tokens), val.tokens(0, val.n_tokens)])
    assert np.array_equal(joined, theirs.tokens(0, theirs.n_tokens))
    assert np.array_equal(val.document(0), theirs.document(train.n_docs))
    assert found.document_name("web", "val", 0) == f"document {train.n_docs}"
    about = found.manifest["sources"]["web"]
    assert about["train"]["bytes"] == found.token_bytes[train.tokens(0, train.n_tokens)].sum()
    # The same again opens it; changed files are another preparation.
    assert prepared(recipe, tmp_path / "data").folder == found.folder
    with IndexedWriter(prefix, np.int32) as writer:
        writer.add(np.ones(3000, np.int64), [30] * 100)
    assert prepared(recipe, tmp_path / "data").folder != found.folder


def test_a_val_of_their_own(made, tmp_path, tiny):
    _, prefix = made
    shards = {"train": str(prefix), "val": str(prefix)}
    found = prepared(write(tmp_path, tiny, shards, pack=True), tmp_path / "data")
    assert found.sources["web"]["val"].n_docs == found.sources["web"]["train"].n_docs == 200
    assert found.manifest["sources"]["web"]["packing"]["utilisation"] > 0.9
    assert found.streams["web"].n_windows == found.manifest["sources"]["web"]["packing"]["windows"]


def test_an_id_past_the_vocabulary_names_file_and_document(made, tmp_path):
    recipe, prefix = made
    with IndexedWriter(prefix, np.int32) as writer:
        writer.add(np.array([1, 2, 3, 4, 999, 5] * 20), [3, 3] * 20)
    message = r"corpus_text_document\.bin, document 1: token 999 is past the vocabulary of 300"
    with pytest.raises(DataError, match=message):
        prepared(recipe, tmp_path / "data")
    assert not [p for p in (tmp_path / "data").iterdir() if p.is_dir()]


def test_settings_that_cannot_work(made, tmp_path, tiny):
    with pytest.raises(ConfigError, match=r"sources\.web\.shards=.*: give train"):
        load_recipe(write(tmp_path, tiny, {"valid": "x"}))
    with pytest.raises(ConfigError, match=r"sources\.web needs either origin or shards"):
        load_recipe(write(tmp_path, tiny, {}))
    step = [{"_target_": "plm.data.steps.normalise.normalise"}]
    with pytest.raises(ConfigError, match=r"steps clean text, and shards hold none"):
        load_recipe(write(tmp_path, tiny, {"train": "x"}, steps=step))
    with pytest.raises(DataError, match=r"nowhere\.idx: no such file; a dataset is"):
        prepared(write(tmp_path, tiny, {"train": str(tmp_path / "nowhere")}), tmp_path / "data")
