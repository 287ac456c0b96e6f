"""A preparation as a whole: what comes out, when it is done again, and how it fails."""

import errno
import json
import os
import time
from functools import partial
from itertools import islice
from threading import Thread

import numpy as np
import pytest
from filelock import FileLock

from plm.data import clean, encode, job
from plm.data import tokenizer as bpe
from plm.data.indexed import IndexedWriter
from plm.data.pool import pool
from plm.data.prepare import is_prepared, prepare
from plm.data.prepared import Prepared
from plm.data.recipe import load_recipe
from plm.data.sources.files import files
from plm.data.steps.exact_dedup import exact_dedup
from plm.data.steps.quality_prose import quality_prose
from plm.errors import ConfigError, DataError, Unfinished

SIZES = {"vocab_size": 300, "block_tokens": 64}


def again(tiny, data_dir, **change):
    recipe, text, _ = tiny
    settings = {"data_dir": data_dir, "workers": 1, "path": str(text), **SIZES, **change}
    return prepare(recipe, **settings)


def test_every_document_comes_back(tiny):
    _, text, made = tiny
    tokenizer = bpe.load(made.tokenizer_path)
    end = tokenizer.token_to_id(bpe.END_OF_TEXT)
    found = {}
    for split, data in made.sources["text"].items():
        for i in range(data.n_docs):
            tokens = data.document(i)
            assert tokens[-1] == end
            assert end not in tokens[:-1]
            found[made.document_name("text", split, i)] = tokenizer.decode(tokens[:-1].tolist())
            assert made.token_bytes[tokens].sum() == len(found[list(found)[-1]].encode())
    for file in text.iterdir():
        parts = sorted((n, t) for n, t in found.items() if n.partition("#")[0] == file.name)
        assert "".join(t for _, t in parts) == file.read_text()


def test_manifest(tiny):
    recipe, _, made = tiny
    data = made.manifest
    assert made.vocab_size == 300
    assert len(made.token_bytes) == 300
    assert made.block_tokens == 64
    assert made.comparable
    assert data["not_comparable_because"] == []
    for name, source in data["sources"].items():
        for split in ("train", "val"):
            shard = made.sources[name][split]
            assert source[split]["tokens"] == shard.n_tokens == shard.doc_starts[-1]
            assert source[split]["documents"] == shard.n_docs
        share = source["val"]["bytes"] / (source["val"]["bytes"] + source["train"]["bytes"])
        assert 0.07 < share < 0.13
        assert source["licence"] == "none"
        assert set(source["leak"]) == {"share", "lines", "found"}
    # Both sources are cut at the same places: neither's validation stands in the other's train.
    assert data["sources"]["text"]["leak"]["share"] == 0
    assert set(data["seconds"]) >= {"reading and cleaning", "encoding"}
    assert not list(made.folder.glob("*.text"))
    assert {f.name for f in made.folder.iterdir()} == {*data["files"], "manifest.json"}
    assert made.sources["text"]["train"].dtype == np.uint16
    assert recipe.name == "tiny"


def test_the_workers_do_not_matter(tiny, tmp_path):
    two = again(tiny, tmp_path, workers=2)
    assert two.folder.name == tiny[2].folder.name
    assert two.fingerprint == tiny[2].fingerprint
    names = [path.name for path in two.folder.iterdir() if path.name != "manifest.json"]
    for name in names:
        assert (two.folder / name).read_bytes() == (tiny[2].folder / name).read_bytes()


def test_the_second_time_opens_it(tiny, monkeypatch):
    recipe, text, made = tiny
    settings = {"data_dir": made.folder.parent, "path": str(text), **SIZES}
    monkeypatch.setattr(job.Job, "run", lambda *_: pytest.fail("prepared again"))
    start = time.process_time()
    assert prepare(recipe, **settings).fingerprint == made.fingerprint
    assert time.process_time() - start < 0.2
    assert is_prepared(recipe, **settings) == made.folder
    assert is_prepared(recipe, **{**settings, "vocab_size": 299}) is None
    assert is_prepared(recipe, seed=1, **settings) is None


def test_changed_text_is_prepared_again(tiny, tmp_path):
    recipe, _, _ = tiny
    (tmp_path / "a.txt").write_text("line one of the text\n" * 2)
    settings = {"data_dir": tmp_path / "data", "path": str(tmp_path / "a.txt"), **SIZES}
    before = job_folder(recipe, settings)
    os.utime(tmp_path / "a.txt", ns=(1, 1))
    assert job_folder(recipe, settings) != before


def job_folder(recipe, settings):
    from plm.data.prepare import _folder, _key

    key = _key(recipe, settings["vocab_size"], settings["block_tokens"], 0, settings["path"])
    return _folder(settings["data_dir"], recipe, key)


def test_the_seed_changes_the_order_not_the_documents(tiny, tmp_path):
    other = again(tiny, tmp_path, seed=1)
    assert other.fingerprint != tiny[2].fingerprint
    names = [
        [p.document_name("text", "train", i) for i in range(p.sources["text"]["train"].n_docs)]
        for p in (other, tiny[2])
    ]
    assert names[0] != names[1]
    assert sorted(names[0]) == sorted(names[1])


def folders(path):
    return [found.name for found in path.iterdir() if found.is_dir()]


def test_interrupted_work_is_gone_on_with(tiny, tmp_path, monkeypatch):
    real = encode.write_shard

    def stop(store, entries, prefix, *rest):
        if prefix.name == "again-val":
            raise KeyboardInterrupt
        return real(store, entries, prefix, *rest)

    monkeypatch.setattr(encode, "write_shard", stop)
    with pytest.raises(KeyboardInterrupt):
        again(tiny, tmp_path)
    assert folders(tmp_path) == [f"{tiny[2].folder.name}.partial"]
    monkeypatch.undo()
    told = []
    monkeypatch.setattr(bpe, "train", lambda *_, **__: pytest.fail("trained again"))
    monkeypatch.setattr(clean, "_read_and_clean", lambda *_: pytest.fail("read again"))
    made = again(tiny, tmp_path, progress=lambda what, *_: told.append(what))
    assert made.fingerprint == tiny[2].fingerprint
    assert made.manifest["sources"] == tiny[2].manifest["sources"]
    assert folders(tmp_path) == [tiny[2].folder.name]


def test_a_full_disk_is_one_line_and_keeps_what_was_done(tiny, tmp_path, monkeypatch):
    def full(self, *_):
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), str(tmp_path / "x.bin"))

    monkeypatch.setattr(IndexedWriter, "__enter__", full)
    with pytest.raises(Unfinished, match=r"x\.bin: the disk is full .*it goes on from there"):
        again(tiny, tmp_path)
    assert folders(tmp_path) == [f"{tiny[2].folder.name}.partial"]
    monkeypatch.undo()
    monkeypatch.setattr(clean, "_read_and_clean", lambda *_: pytest.fail("read again"))
    assert again(tiny, tmp_path).fingerprint == tiny[2].fingerprint


def test_another_process_is_waited_for(tiny, tmp_path):
    told, done = [], []

    def run():
        done.append(again(tiny, tmp_path, progress=lambda what, *_: told.append(what)))

    lock = FileLock(tmp_path / f".{tiny[2].folder.name}.lock")
    with lock:
        thread = Thread(target=run)
        thread.start()
        thread.join(0.5)
        assert told == ["waiting for another process that prepares the same data"]
        assert not done
    thread.join(30)
    assert done[0].fingerprint == tiny[2].fingerprint


def test_no_permission_is_one_line(tiny, tmp_path, monkeypatch):
    def refuse(self, *_, **__):
        raise PermissionError(errno.EACCES, "Permission denied", str(tmp_path / "data"))

    monkeypatch.setattr("pathlib.Path.mkdir", refuse)
    with pytest.raises(DataError, match="data: no permission to write there; choose another"):
        again(tiny, tmp_path / "data")


def test_a_file_in_the_folders_place(tiny, tmp_path):
    (tmp_path / "data").write_text("")
    with pytest.raises(DataError, match=r"data: .* choose another folder"):
        again(tiny, tmp_path / "data")


@pytest.mark.parametrize(
    ("change", "kind", "message"),
    [
        ({"block_tokens": 1}, ConfigError, "block_tokens=1 must be at least 2"),
        ({"vocab_size": 100}, ConfigError, "vocab_size=100 is too small"),
        ({"path": None}, ConfigError, "recipe tiny reads your own text: name it with data.path"),
        ({"path": "nowhere"}, DataError, "nowhere: no such file or folder"),
        (
            {"block_tokens": 4096},
            DataError,
            r"source again is too small: \d+ tokens in train, block",
        ),
        ({"vocab_size": 2**31}, DataError, "vocab_size=2147483648 does not fit int32"),
    ],
)
def test_refusals_leave_nothing(tiny, tmp_path, change, kind, message):
    with pytest.raises(kind, match=message):
        again(tiny, tmp_path, **change)
    assert folders(tmp_path) == []


def test_a_path_that_no_source_reads():
    with pytest.raises(ConfigError, match="recipe embedded does not read it; use recipe=text"):
        prepare(load_recipe("embedded"), data_dir="x", path="book.txt", **SIZES)


def test_a_source_with_nothing_left(make_recipe, tiny, tmp_path):
    rule = {"_target_": "plm.data.steps.quality_prose.quality_prose", "min_words": 10**6}
    recipe = make_recipe(tmp_path, steps=[rule])
    message = (
        r"source again: no document is left \(dropped by quality_prose: too short 4, first "
        rf"{tiny[1]}/book0\.txt\)"
    )
    with pytest.raises(DataError, match=message):
        prepare(recipe, data_dir=tmp_path, workers=1, path=str(tiny[1]), **SIZES)


def test_another_version_is_not_comparable(tiny, tmp_path):
    recipe, _, _ = tiny
    recipe.versions.update({"numpy": "0.1", "no-such-thing": "1"})
    try:
        made = again(tiny, tmp_path)
    finally:
        recipe.versions.clear()
    assert not made.comparable
    reasons = made.manifest["not_comparable_because"]
    assert reasons[0].endswith("the recipe names 0.1")
    assert reasons[1] == "no-such-thing is missing, the recipe names 1"
    assert made.fingerprint == tiny[2].fingerprint


def test_a_leaking_validation_document_is_dropped(make_recipe, tmp_path):
    text = tmp_path / "text"
    text.mkdir()
    shared = "".join(f"a line {i} that stands in every single document\n" for i in range(40))
    for i in range(200):
        own = "".join(f"document {i} has this line number {k} of its own\n" for k in range(9))
        (text / f"{i:03}.txt").write_text(shared + own if i % 2 else own)
    recipe = make_recipe(tmp_path, split={"by": "group", "val_share": 0.1, "max_leak": 0.5})
    recipe.sources.pop("text")
    made = prepare(recipe, data_dir=tmp_path, workers=1, path=str(text), **SIZES)
    source = made.manifest["sources"]["again"]
    assert source["leak"]["share"] == 0
    assert source["steps"]["split"]["dropped"]["validation stands in train"] > 0
    names = {made.document_name("again", "val", i) for i in range(source["val"]["documents"])}
    assert names
    assert all(int(name[:3]) % 2 == 0 for name in names)


def test_a_long_document_is_cut_without_a_trace(make_recipe, tmp_path, monkeypatch):
    lines = "".join(f"  {i}: some text, é\n\n   more\nand {i}\n" for i in range(3000))
    (tmp_path / "long.txt").write_text(lines)
    recipe = make_recipe(tmp_path)
    settings = {"workers": 1, "path": str(tmp_path / "long.txt"), **SIZES}
    whole = prepare(recipe, data_dir=tmp_path / "a", **settings)
    monkeypatch.setattr(encode, "_SEGMENT", 500)
    monkeypatch.setattr(encode, "_PORTION", 2000)
    assert prepare(recipe, data_dir=tmp_path / "b", **settings).fingerprint == whole.fingerprint


def test_text_that_reads_like_a_special_token_ends_nothing(make_recipe, tmp_path):
    lines = "".join(f"say <|endoftext|> and <|im_start|> number {i}\n" for i in range(300))
    (tmp_path / "s.txt").write_text(lines)
    settings = {"workers": 1, "path": str(tmp_path / "s.txt"), **SIZES}
    made = prepare(make_recipe(tmp_path), data_dir=tmp_path, **settings)
    data = made.sources["text"]["train"]
    assert (data.tokens(0, data.n_tokens) == 0).sum() == data.n_docs
    assert not (data.tokens(0, data.n_tokens) == 1).any()


def test_damage_is_found_on_opening(tiny, tmp_path):
    made = again(tiny, tmp_path)
    path = made.folder / "again-train.bin"
    content = bytearray(path.read_bytes())
    later = (made.folder / "manifest.json").stat().st_mtime + 10
    os.utime(path, (later, later))
    assert Prepared(made.folder).fingerprint == made.fingerprint
    content[-2] ^= 1
    path.write_bytes(content)
    os.utime(path, (later, later))
    with pytest.raises(DataError, match=r"again-train\.bin: changed after it was prepared; delete"):
        Prepared(made.folder)
    content[-2] ^= 1
    path.write_bytes(content)
    with open(made.folder / "text-train.bin", "ab") as file:
        file.write(b"\0")
    with pytest.raises(DataError, match=r"text-train\.bin: has \d+ bytes, the manifest says \d+"):
        again(tiny, tmp_path)
    (made.folder / "text-train.bin").unlink()
    with pytest.raises(DataError, match=r"text-train\.bin: is missing"):
        Prepared(made.folder)
    (made.folder / "manifest.json").write_text("{")
    with pytest.raises(DataError, match=r"manifest\.json: damaged"):
        Prepared(made.folder)
    with pytest.raises(DataError, match=r"no manifest\.json; this is not a prepared recipe"):
        Prepared(tmp_path)


def test_manifest_is_plain_json(tiny):
    text = (tiny[2].folder / "manifest.json").read_text()
    assert json.loads(text)["key"]["vocab_size"] == 300


def test_a_path_without_a_slash_is_watched(make_recipe, tiny, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "notes.txt").write_text((tiny[1] / "book0.txt").read_text())
    origin = {"_target_": "plm.data.sources.files.files", "path": "notes.txt"}
    recipe = make_recipe(tmp_path, origin=origin)
    recipe.sources.pop("text")
    recipe.content["sources"].pop("text")
    first = prepare(recipe, data_dir=tmp_path / "d", workers=1, **SIZES)
    (tmp_path / "notes.txt").write_text((tiny[1] / "book1.txt").read_text())
    assert prepare(recipe, data_dir=tmp_path / "d", workers=1, **SIZES).folder != first.folder


def test_half_a_surrogate_pair_names_file_and_row(make_recipe, tmp_path):
    (tmp_path / "a.jsonl").write_text('{"text": "whole"}\n{"text": "half \\ud83d"}\n')
    with pytest.raises(DataError, match=r"a\.jsonl:2: character 5 is half of a surrogate pair"):
        prepare(
            make_recipe(tmp_path), data_dir=tmp_path / "d", path=str(tmp_path / "a.jsonl"), **SIZES
        )


def first_three(documents, *, tally):
    """A step that wants no more."""
    yield from islice(documents, 3)


def test_a_step_that_ends_early_leaves_the_next_source_alone(tiny, tmp_path, monkeypatch):
    monkeypatch.setattr(clean, "_PORTION", 100)
    with pool(1) as (executor, ahead):
        origins = {name: files(str(tiny[1])) for name in "ab"}
        steps = {"a": [first_three, quality_prose], "b": [quality_prose]}
        stores = clean.clean(origins, steps, tmp_path, executor, ahead, lambda *_: None)
    assert [len(stores[name].entries) for name in "ab"] == [3, 4]


def test_a_step_may_stand_on_both_sides(tiny, tmp_path):
    rule = partial(quality_prose, min_words=10**6)
    with pool(1) as (executor, ahead):
        origins = {"a": files(str(tiny[1]))}
        steps = {"a": [rule, exact_dedup, rule]}
        stores = clean.clean(origins, steps, tmp_path, executor, ahead, lambda *_: None)
    assert stores["a"].tallies["quality_prose"].dropped == {"too short": 4}
