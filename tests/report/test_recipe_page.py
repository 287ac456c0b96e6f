"""The report of a prepared recipe: its own figures, nothing that leaves the page, no script."""

import json
import os
import random
import re
import shutil

import numpy as np
import pytest

from plm.data import tokenizer as bpe
from plm.data.prepare import prepare
from plm.data.prepared import Prepared
from plm.data.recipe import load_recipe
from plm.errors import DataError
from plm.report import recipe_facts
from plm.report.recipe_lengths import bins
from plm.report.recipe_page import write_recipe_report
from plm.report.recipe_tokenizer import measure, texts_of, used

BAD = "<script>alert(1)</script>"
WORDS = "time light water stone bird cloud river field house road night song".split()


def lines(seed, count):
    rng = random.Random(seed)
    return "".join(" ".join(rng.choices(WORDS, k=9)) + f" {i} & <b>.\n" for i in range(count))


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    folder = tmp_path_factory.mktemp("recipe")
    (folder / "text").mkdir()
    for i in range(5):
        # The first two are the same text: one is dropped.
        (folder / f"text/book{i}.txt").write_text(BAD + lines(max(1, i), 150))
    return prepare(
        load_recipe("text"),
        data_dir=folder / "data",
        vocab_size=320,
        block_tokens=32,
        workers=1,
        path=str(folder / "text"),
    )


@pytest.fixture
def prepared(made, tmp_path):
    shutil.copytree(made.folder, tmp_path / made.folder.name)
    return Prepared(tmp_path / made.folder.name)


def changed(prepared, **sources):
    """The folder opened again, with more facts in its manifest."""
    file = prepared.folder / "manifest.json"
    manifest = json.loads(file.read_text())
    manifest["sources"]["text"].update(sources)
    file.write_text(json.dumps(manifest))
    return Prepared(prepared.folder)


def section(page, title):
    found = re.search(rf"<section><h2>{title}</h2>(.*?)</section>", page, re.S)
    assert found, title
    return found.group(1)


STEPS = {
    "exact_dedup": {"dropped": {"seen before": 3}, "lost": {"seen before": 4000}},
    "near_dedup": {"dropped": {"near duplicate": 2}, "lost": {"near duplicate": 100}},
    "read": {"dropped": {"file too long": 1}, "lost": {"file too long": 0}},
    "mask": {
        "changed": {BAD: 7},
        "examples": {BAD: [[BAD, f"call {BAD} \x00 now"]]},
    },
}


def test_the_page_stands_alone_and_the_folder_stays_valid(prepared):
    before = sorted(os.listdir(prepared.folder))
    path = write_recipe_report(prepared)
    assert path == prepared.folder / "report.html"
    assert sorted(os.listdir(prepared.folder)) == sorted([*before, "report.html"])
    assert Prepared(prepared.folder).fingerprint == prepared.fingerprint
    assert "report.html" not in prepared.manifest["files"]
    page = path.read_text()
    assert not re.search(r"https?://|<link|src=|@import|url\(|<script", page)
    assert 'name="viewport"' in page and "prefers-color-scheme:dark" in page
    assert len(page) < 200_000
    assert page == write_recipe_report(Prepared(prepared.folder)).read_text()


def test_each_section_shows_the_figures(prepared):
    page = write_recipe_report(prepared).read_text()
    told = prepared.manifest["sources"]["text"]
    assert "80.0 % of the 5 that came in" in section(page, "In short")
    sources = section(page, "Sources")
    assert f">{told['train']['documents']:,}<" in sources
    assert "yours to know" in sources and ">missing<" not in sources
    cleaning = section(page, "Cleaning")
    assert ">seen before<" in cleaning and ">−1<" in cleaning and ">20.0 %<" in cleaning
    assert "≈ −" in cleaning and "places changed" not in cleaning
    assert 'data-head="exact">1<' in section(page, "Duplicates")
    assert section(page, "Lengths of documents").count("<svg class=") == 2
    tokenizer = section(page, "Tokenizer")
    assert "&lt;|im_end|&gt;" in tokenizer and ">qwen2<" in tokenizer
    assert "never used in all train text" in tokenizer and "Longest tokens" in tokenizer
    assert "book1.txt" in section(page, "Documents that were dropped")
    kept = section(page, "Documents that were kept")
    assert "4 of " in kept and "&amp; &lt;b&gt;" in kept
    conditions = section(page, "Conditions")
    assert prepared.fingerprint in conditions and "<summary>versions (1)<" in conditions


def test_counts_follow_the_steps_in_their_order(prepared):
    again = changed(prepared, steps=STEPS)
    found = recipe_facts.losses(again, "text")
    # The recipe's steps in its own order, those that it does not name behind them.
    assert [loss.step for loss in found] == ["read", "exact_dedup", "near_dedup", "mask"]
    assert [loss.documents for loss in found] == [1, 3, 2, 0]
    assert recipe_facts.kept(again, "text") == 4
    page = write_recipe_report(again).read_text()
    cleaning = section(page, "Cleaning")
    assert 'data-head="documents">10<' in cleaning and ">40.0 %<" in cleaning
    told = again.manifest["sources"]["text"]
    n_bytes = sum(told[split]["bytes"] for split in ("train", "val"))
    tokens = sum(told[split]["tokens"] for split in ("train", "val"))
    assert f"≈ −{4000 * tokens / n_bytes / 1000:.2f}k" in cleaning
    assert 'data-head="places changed">7<' in cleaning
    assert "5</dd><dd>3 exact, 2 near" in section(page, "In short")


def test_foreign_text_stays_text(prepared):
    again = changed(prepared, steps=STEPS, licence=BAD, revision=BAD, licences={"a": BAD})
    page = write_recipe_report(again).read_text()
    assert "<script" not in page and "\x00" not in page
    assert "call &lt;script&gt;alert(1)&lt;/script&gt; \ufffd now" in page
    assert page.count("&lt;script&gt;") > 8


def test_an_older_manifest_without_steps(prepared):
    file = prepared.folder / "manifest.json"
    manifest = json.loads(file.read_text())
    del manifest["sources"]["text"]["steps"], manifest["key"], manifest["seconds"]
    manifest.update(comparable=False, not_comparable_because=[BAD])
    file.write_text(json.dumps(manifest))
    page = write_recipe_report(Prepared(prepared.folder)).read_text()
    assert "Nothing was dropped or changed." in page
    assert "Not comparable" in page and "<script" not in page


def test_a_failed_write_leaves_the_old_page(prepared, monkeypatch):
    path = write_recipe_report(prepared)
    path.write_text("old")

    def full(*_):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "replace", full)
    with pytest.raises(DataError, match=r"report\.html cannot be written: No space left"):
        write_recipe_report(prepared)
    assert path.read_text() == "old"
    assert not [name for name in os.listdir(prepared.folder) if name.startswith(".")]


def test_bins_hold_every_length_once():
    for lengths in ([1], [7, 7], [1, 2, 3, 40, 100_000], [99, 100, 101]):
        edges = bins(np.array(lengths))
        assert edges[0] <= min(lengths) and max(lengths) < edges[-1]
        assert (np.diff(edges) > 0).all() and len(edges) >= 2


def test_words_are_measured_by_hand():
    tokenizer = bpe.train([" the the the cat"] * 9, vocab_size=262, special_tokens=["<|e|>"])
    names = [tokenizer.decode([i]) for i in range(257, bpe.size(tokenizer))]
    assert " the" in names
    m = measure(bpe.Encoder(tokenizer), ["the cat, the 12\n", "é"])
    assert (m.documents, m.n_bytes, m.words) == (2, 18, 4)
    cat, e = (len(ids) for ids in bpe.encode_batch(tokenizer, [" cat", " é"]))
    assert m.word_tokens == 2 + cat + e
    assert m.whole_words == 2 + (cat == 1)
    assert m.fertility == m.word_tokens / 4 and m.whole == m.whole_words / 4
    empty = measure(bpe.Encoder(tokenizer), [])
    assert (empty.compression, empty.fertility, empty.whole) == (0, 0, 0)


def test_the_sample_is_spread_and_the_count_complete(made):
    tokenizer = bpe.load(made.tokenizer_path)
    train = made.sources["text"]["train"]
    whole = list(texts_of(tokenizer, train, made.token_bytes, 10**9))
    assert len(whole) == train.n_docs
    told = made.manifest["sources"]["text"]["train"]
    assert sum(len(text.encode()) for text in whole) == told["bytes"]
    some = list(texts_of(tokenizer, train, made.token_bytes, told["bytes"] // 3))
    assert 0 < len(some) < len(whole) and set(some) <= set(whole)
    counts, read, total = used(made)
    assert counts.sum() == read == total == train.n_tokens
    assert counts[0] == train.n_docs


def test_conversations_keep_their_marks_and_show_what_is_trained_on(tmp_path):
    rows = [
        {
            "prompt": f"What is <b>{i}</b>?",
            "completion": f"It is {i}. " + "And so on. " * 40 * (i == 9),
        }
        for i in range(60)
    ]
    (tmp_path / "a.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    found = prepare(
        load_recipe("conversations"),
        data_dir=tmp_path / "data",
        vocab_size=320,
        block_tokens=1024,
        workers=1,
        path=str(tmp_path / "a.jsonl"),
    )
    tokenizer = bpe.load(found.tokenizer_path)
    shown = recipe_facts.kept_examples(found, tokenizer)
    assert "train documents, what is trained on set off" in shown
    (number, body) = re.search(
        r'a\.jsonl:(\d+)</h3><pre class="sample">(.*?)</pre>', shown, re.S
    ).groups()
    said = f"It is {int(number) - 1}. "
    assert body == (
        f"&lt;|im_start|&gt;user\nWhat is &lt;b&gt;{int(number) - 1}&lt;/b&gt;?&lt;|im_end|&gt;\n"
        f"&lt;|im_start|&gt;assistant\n<b>{said}&lt;|im_end|&gt;</b>\n"
    )
    train = found.sources["conversations"]["train"]
    names = [found.document_name("conversations", "train", i) for i in range(train.n_docs)]
    if "a.jsonl:10" in names:
        ids = train.document(names.index("a.jsonl:10"))
        mask = np.arange(len(ids)) > 20
        article = recipe_facts._article("a", recipe_facts._pieces(ids, mask, tokenizer))
        text = re.sub("<.*?>", "", article.partition("<pre")[2])
        assert (
            article.endswith('</b><span class="cut"> …</span></pre></article>') and len(text) < 500
        )
