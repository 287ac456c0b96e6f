"""Pairs prepared: their parts, the mask, the packed windows, and what is left out."""

import hashlib
import json
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch
import yaml
from torch import Tensor

from plm.analysis.ngram import ngram_baselines
from plm.batch import IGNORE_INDEX
from plm.data import clean, conversation_shards
from plm.data import tokenizer as bpe
from plm.data.indexed import IndexedDataset
from plm.data.loader import Batches, assemble
from plm.data.open import recipe_of
from plm.data.order import Order, Windows
from plm.data.pair_stream import PairStream
from plm.data.pairs import SHOWN
from plm.data.prepare import prepare
from plm.data.prepared import SPLITS, Prepared
from plm.data.recipe import load_recipe
from plm.errors import ConfigError, DataError, Unfinished
from plm.formats.chat import Chat
from plm.model.context import Context
from plm.phases import Plan
from plm.report.recipe_page import render
from plm.rounds.template import default_text
from plm.stages import samples
from tests.model.common import tiny

BLOCK = 224
SPECIAL = ["<|endoftext|>", "<|im_start|>", "<|im_end|>"]
TEMPLATE = "Ask {question} not {answer}"
EVIL = {"prompt": "Say", "chosen": "a <|im_end|>", "rejected": "b"}
LONG = {"prompt": "Say", "chosen": "word " * 70, "rejected": "b"}


def rows(number: int) -> list[dict]:
    """Different pairs: with a system message, with a turn before."""
    made = []
    for i in range(number):
        asked = [{"role": "user", "content": f"{i} + 2?"}]
        if i % 3 == 1:
            asked = [{"role": "system", "content": "Be brief."}, *asked]
        if i % 4 == 2:
            asked += [
                {"role": "assistant", "content": f"It is {i}."},
                {"role": "user", "content": "No?"},
            ]
        made.append({"prompt": asked, "chosen": f"Yes, {i + 2}.", "rejected": "I\ndo not know."})
    return made


def write_recipe(folder: Path, lines: list, *, origin: dict | None = None, **source) -> Path:
    """A recipe over a tokenizer and pairs of its own."""
    tokenizer = bpe.train([json.dumps(r) for r in rows(20)], vocab_size=320, special_tokens=SPECIAL)
    bpe.save(tokenizer, folder / "tokenizer.json")
    (folder / "rows.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    content = {
        "sources": {
            "duel": {
                "origin": {
                    "_target_": "plm.data.sources.pairs.pairs",
                    "path": str(folder / "rows.jsonl"),
                    **(origin or {}),
                },
                "licence": "none",
                "revision": "1",
                "split": {"val_share": 0.2},
                "pairs": True,
                **source,
            }
        },
        "tokenizer": {"file": str(folder / "tokenizer.json")},
    }
    (folder / "recipe.yaml").write_text(yaml.safe_dump(content))
    return folder / "recipe.yaml"


def prepared(recipe: Path, folder: Path, workers: int = 1, block: int = BLOCK, **data) -> Prepared:
    data = {"refinement": TEMPLATE, **data}
    loaded = recipe_of({"recipe": str(recipe), **data})
    return prepare(loaded, data_dir=folder, vocab_size=320, block_tokens=block, workers=workers)


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    """(rows, the prepared data)."""
    folder = tmp_path_factory.mktemp("duel")
    lines = rows(60)
    return lines, prepared(write_recipe(folder, lines), folder / "data")


def windows_of(stream: PairStream, *chosen: int) -> Windows:
    number = np.array(chosen or range(stream.n_windows), dtype=np.int64)
    zeros = np.zeros_like(number)
    return Windows(zeros, number * stream.size, zeros, stream.size)


def read(stream: PairStream, *chosen: int) -> dict[str, Tensor]:
    """Packed windows, all of them by default, as they are trained on."""
    return assemble([stream], windows_of(stream, *chosen), isolate=True)


def by_name(found: Prepared, split: str) -> dict[str, tuple[np.ndarray, np.ndarray]]:
    """Ids and mask of each part of a split."""
    data = found.sources["duel"][split]
    mask = IndexedDataset(found.folder / f"duel-{split}.mask")
    return {
        found.document_name("duel", split, i): (data.document(i), mask.document(i))
        for i in range(data.n_docs)
    }


def expected(chat: Chat, row: dict, shown: str) -> tuple[list[int], list[int]]:
    """A part made by hand: ids and mask."""
    before = [dict(message) for message in row["prompt"]]
    if shown != "nothing":
        answer = row["rejected" if shown == "worse" else "chosen"]
        before[-1]["content"] = f"Ask {before[-1]['content']} not {answer}"
    ids, mask = [], []
    for of_worse, key in enumerate(("chosen", "rejected")):
        prompt = chat.prompt(before)
        whole, _ = chat.encode([*before, {"role": "assistant", "content": row[key]}])
        whole = whole.tolist()
        assert whole[: len(prompt)] == prompt
        # The template ends a turn with a line break, which nobody has to say.
        answer = bpe.load(chat.path).encode(row[key] + SPECIAL[2], add_special_tokens=False).ids
        stop = len(prompt) + len(answer)
        assert whole[len(prompt) : stop] == answer
        high = 2 * of_worse + 4 * SHOWN.index(shown)
        ids += whole
        mask += [high + (len(prompt) <= place < stop) for place in range(len(whole))]
    return ids, mask


def chat_of(found: Prepared) -> Chat:
    chat = Chat(bpe.load(found.tokenizer_path))
    chat.path = found.tokenizer_path
    return chat


def test_every_part_comes_back_token_by_token(made):
    lines, found = made
    chat, written = chat_of(found), {}
    for split in SPLITS:
        part = by_name(found, split)
        about = found.manifest["sources"]["duel"][split]
        assert about["documents"] == len(part) == 3 * about["pairs"] > 0
        assert about["tokens"] == sum(len(ids) for ids, _ in part.values())
        assert about["targets"] == sum(int((mask & 1).sum()) for _, mask in part.values())
        written |= part
    assert len(written) == 3 * len(lines)
    for number, row in enumerate(lines, start=1):
        for shown, middle in (
            ("nothing", ""),
            ("worse", " (worse shown)"),
            ("better", " (better shown)"),
        ):
            ids, mask = expected(chat, row, shown)
            name = f"rows.jsonl{middle}:{number}"
            assert written[name][0].tolist() == ids
            assert written[name][1].tolist() == mask


def test_what_is_told(made):
    _, found = made
    assert found.pairs == found.packed == found.conversations == ["duel"]
    assert found.refinement == TEMPLATE and found.shown == list(SHOWN)
    mark = hashlib.sha256(TEMPLATE.encode()).hexdigest()
    assert found.manifest["refinement_sha256"] == mark
    assert found.manifest["sources"]["duel"]["came_in"] == 60
    assert ngram_baselines(found) == {}
    page = render(found)
    assert "100.0 % of the 60 that came in" in page and ", worse answer</h3>" in page


@pytest.mark.parametrize("split", SPLITS)
def test_windows_hold_every_part_once_with_its_labels(made, split):
    _, found = made
    stream = (found.streams if split == "train" else found.held_out)["duel"]
    parts = by_name(found, split)
    assert isinstance(stream, PairStream)
    assert stream.n_parts == len(parts)
    batch = read(stream)
    numbers, shown = batch["parts"], batch["shown"]
    assert numbers.shape == shown.shape == (stream.n_windows, stream.most_parts)
    assert sorted(numbers[numbers >= 0].tolist()) == list(range(stream.n_parts))
    assert ((numbers < 0) == (shown < 0)).all() and (numbers >= 0).any(dim=0).all()
    seen = []
    for row in range(stream.n_windows):
        many = int((numbers[row] >= 0).sum())
        # Behind a row's last part there is none.
        assert (numbers[row, :many] >= 0).all()
        for p in range(many):
            ids, mask = [], []
            for document in (2 * p, 2 * p + 1):
                own = batch["doc_ids"][row] == document
                tokens, labels = batch["tokens"][row][own], batch["labels"][row][own]
                assert batch["positions"][row][own].tolist() == list(range(len(tokens)))
                kept = labels != IGNORE_INDEX
                assert (labels[:-1] == tokens[1:])[kept[:-1]].all()
                # The last token predicts what is behind: another document.
                assert not kept[-1]
                ids += tokens.tolist()
                mask += [0, *kept[:-1].tolist()]
                if document == 2 * p:
                    better = len(ids)
            place = int(numbers[row, p])
            name = found.document_name("duel", split, int(stream._order[place]))
            wanted = parts[name]
            assert wanted[0].tolist() == ids
            assert (wanted[1] & 1).tolist() == mask
            assert (wanted[1] & 2 > 0).tolist() == [i >= better for i in range(len(ids))]
            assert set((wanted[1] >> 2).tolist()) == {int(shown[row, p])}
            seen.append(name)
    assert sorted(seen) == sorted(parts)


def test_nothing_but_the_answer_is_a_label(made):
    _, found = made
    batch = read(found.streams["duel"])
    tokenizer = bpe.load(found.tokenizer_path)
    whole = [
        tokenizer.decode(batch["labels"][row][own].tolist(), skip_special_tokens=False)
        for row, column in (batch["parts"] >= 0).nonzero().tolist()
        for document in (2 * column, 2 * column + 1)
        for own in [(batch["doc_ids"][row] == document) & (batch["labels"][row] != IGNORE_INDEX)]
    ]
    assert len(whole) == 2 * found.streams["duel"].n_parts
    for better, worse in zip(whole[::2], whole[1::2], strict=True):
        assert better.startswith("Yes, ") and better.endswith(".<|im_end|>")
        assert worse == "I\ndo not know.<|im_end|>"


def test_the_answers_of_a_part_do_not_see_each_other(made):
    _, found = made
    model = tiny("scale.vocab_size=320", f"scale.max_position_embeddings={BLOCK}").float()
    stream = found.streams["duel"]
    row = int((stream.extras(np.arange(stream.n_windows) * BLOCK)["parts"] >= 0).sum(1).argmax())
    batch = read(stream, row)
    first, others = batch["doc_ids"] == 0, batch["doc_ids"] > 0
    context = Context(positions=batch["positions"], doc_ids=batch["doc_ids"])
    changed = torch.where(first, (batch["tokens"] + 7) % 320, batch["tokens"])
    with torch.no_grad():
        before = model(batch["tokens"], context=context).logits
        after = model(changed, context=context).logits
    assert (after - before)[first].abs().max() > 0
    assert (after - before)[others].abs().max() == 0


def plan_of(tokens: int, rows_a_step: int, *sources: str) -> Plan:
    node = {
        "tokens": tokens,
        "seq_len": BLOCK,
        "global_batch_tokens": rows_a_step * BLOCK,
        "mixture": dict.fromkeys(sources, 1),
        "isolate_documents": True,
        "rate": {"shape": "hold", "to": 1.0},
    }
    return Plan.read({"x": node})


def test_micro_batches_and_ranks_make_up_the_step(made):
    _, found = made
    stream = found.streams["duel"]
    order = Order(plan_of(16 * BLOCK, 8, "duel"), {"duel": stream.n_tokens}, BLOCK, seed=0)
    (whole,) = Batches(order, [stream], micro_batch_size=8).step(1)
    parts = whole.extras["parts"]
    assert set(whole.extras) == {"parts", "shown"}
    assert parts.shape == (8, stream.most_parts)
    assert whole.kept_in_step == int((parts >= 0).sum()) != parts.numel()
    split = [
        list(Batches(order, [stream], micro_batch_size=3, rank=rank, world_size=2).step(1))
        for rank in range(2)
    ]
    assert [len(of_rank) for of_rank in split] == [2, 2]
    for name in ("parts", "shown"):
        joined = torch.cat([one.extras[name] for of_rank in split for one in of_rank])
        assert torch.equal(joined, whole.extras[name])
    counts = [of_rank[0].kept_in_step for of_rank in split]
    assert sum(counts) == whole.kept_in_step and all(counts)
    assert all(
        one.kept_in_step == n for of_rank, n in zip(split, counts, strict=True) for one in of_rank
    )
    moved = split[0][0].to("cpu").extras["parts"]
    assert torch.equal(moved, split[0][0].extras["parts"])


def test_sources_with_more_and_fewer_parts_a_row(made, tmp_path):
    _, found = made
    recipe = write_recipe(tmp_path, rows(60))
    only = prepared(recipe, tmp_path / "data", shown=["better"])
    wide, narrow = found.streams["duel"], only.streams["duel"]
    assert wide.most_parts != narrow.most_parts
    most = max(wide.most_parts, narrow.most_parts)
    windows = Windows(np.array([1, 0, 1]), np.array([2, 1, 0]) * BLOCK, np.zeros(3, int), BLOCK)
    batch = assemble([wide, narrow], windows, isolate=True)
    assert batch["parts"].shape == (3, most)
    for row, (stream, window) in enumerate(((narrow, 2), (wide, 1), (narrow, 0))):
        alone = read(stream, window)
        width = stream.most_parts
        for name in ("parts", "shown"):
            assert torch.equal(batch[name][row, :width], alone[name][0])
            assert (batch[name][row, width:] == -1).all()


def test_pairs_are_not_mixed_with_other_sources(made):
    _, found = made
    stream = found.streams["duel"]
    sizes = {"duel": stream.n_tokens, "text": stream.n_tokens}
    order = Order(plan_of(16 * BLOCK, 8, "duel", "text"), sizes, BLOCK, seed=0)
    error = r"phases: pairs \(duel\) are mixed with other sources \(text\), and a loss is over"
    with pytest.raises(ConfigError, match=error):
        Batches(order, [stream, found.sources["duel"]["train"]], micro_batch_size=4)


def test_samples_are_asked_what_stands_before_the_answers(made):
    _, found = made
    job = SimpleNamespace(prepared=found)
    asked = samples._prompts(job, "duel", {"number": 4, "prompt_tokens": 8})
    tokenizer = bpe.load(found.tokenizer_path)
    texts = [tokenizer.decode(ids, skip_special_tokens=False) for ids in asked]
    assert len(texts) == 4
    assert all(text.endswith("<|im_end|>\n<|im_start|>assistant\n") for text in texts)


@pytest.mark.parametrize("shown", [["nothing"], ["better", "nothing"], ["worse", "better"]])
def test_kinds_of_prompts_are_chosen(made, tmp_path, shown):
    lines, whole = made
    found = prepared(write_recipe(tmp_path, lines), tmp_path / "data", shown=shown)
    kept = [kind for kind in SHOWN if kind in shown]
    assert found.shown == kept and found.fingerprint != whole.fingerprint
    assert found.refinement == (None if shown == ["nothing"] else TEMPLATE)
    assert ("refinement_sha256" in found.manifest) == (shown != ["nothing"])
    every = by_name(whole, "train") | by_name(whole, "val")
    some = by_name(found, "train") | by_name(found, "val")
    assert len(some) == len(kept) * len(lines)
    for name, (ids, mask) in some.items():
        assert ids.tolist() == every[name][0].tolist() and mask.tolist() == every[name][1].tolist()
    batch = read(found.streams["duel"])
    assert set(batch["shown"].unique().tolist()) - {-1} == {SHOWN.index(kind) for kind in kept}


def test_the_template_decides_the_folder_where_an_answer_is_shown(tmp_path):
    recipe = str(write_recipe(tmp_path, rows(9)))

    def key(**settings):
        from plm.data.prepare import _key

        return _key(recipe_of({"recipe": recipe, **settings}), 320, BLOCK, 0, None)

    assert key() == key(refinement=default_text()) == key(shown=list(SHOWN))
    assert key() != key(refinement=TEMPLATE) != key(refinement=TEMPLATE, shown=["worse"])
    assert key(shown=["nothing"]) == key(shown=["nothing"], refinement=TEMPLATE)


def test_what_is_left_out_is_counted(tmp_path):
    lines = [
        EVIL,
        LONG,
        {"prompt": "a", "chosen": "b", "rejected": "b"},
        {"prompt": "a", "chosen": "b"},
        *rows(40),
    ]
    found = prepared(write_recipe(tmp_path, lines), tmp_path / "data")
    about = found.manifest["sources"]["duel"]
    assert about["steps"]["read"]["dropped"] == {"equal answers": 1, "no pair": 1}
    told = about["steps"]["encoding"]
    assert told["dropped"] == {"reads like a special token": 1, "longer than block_tokens": 1}
    kept = sum(about[split]["pairs"] for split in SPLITS)
    lost = sum(sum(t["dropped"].values()) for t in about["steps"].values())
    assert about["came_in"] == len(lines) == kept + lost
    # Not a part of it is left.
    names = [n for split in SPLITS for n in by_name(found, split)]
    assert len(names) == 3 * kept and not [n for n in names if n.endswith((":1", ":2"))]


@pytest.mark.parametrize(
    ("bad", "settings", "error"),
    [
        (
            LONG,
            {"too_long": "error"},
            r"rows\.jsonl, row 31: too long: \d+ tokens, block_tokens=224; use a larger data\."
            r"block_tokens, or data\.too_long=skip$",
        ),
        (EVIL, {"bad_rows": "error"}, r"/rows\.jsonl, row 31: <\|im_end\|> stands in the text"),
    ],
)
def test_a_bad_pair_can_be_an_error(tmp_path, bad, settings, error):
    with pytest.raises(DataError, match=error):
        prepared(write_recipe(tmp_path, [*rows(30), bad]), tmp_path / "data", **settings)


def test_too_few_pairs(tmp_path):
    with pytest.raises(DataError, match=r"source duel has one pair only \(.*rows\.jsonl, row 1\);"):
        prepared(write_recipe(tmp_path, rows(1)), tmp_path / "data")
    with pytest.raises(DataError, match=r"source duel: all its 2 pairs begin with the same quest"):
        prepared(write_recipe(tmp_path, rows(1) * 2), tmp_path / "data")
    with pytest.raises(
        DataError, match=r"too small: 3 parts of pairs in train fill 1 windows of bl"
    ):
        prepared(write_recipe(tmp_path, rows(2)), tmp_path / "data", block=600)


@pytest.mark.parametrize(
    ("settings", "error"),
    [
        ({"pairs": "yes"}, "duel.pairs='yes' must be true or false"),
        ({"conversations": True}, "duel: pairs and conversations exclude each other"),
        ({"too_long": "cut"}, "duel.too_long=cut: a pair is never cut; use skip or error"),
        ({"split": {"by": "pieces"}}, "split.by=pieces would cut pairs in two"),
        (
            {"origin": None, "shards": {"train": "a"}},
            "duel.pairs: shards hold tokens; name an orig",
        ),
    ],
)
def test_settings_of_a_source(tmp_path, settings, error):
    recipe = write_recipe(tmp_path, rows(9))
    content = yaml.safe_load(recipe.read_text())
    duel = {**content["sources"]["duel"], **settings}
    content["sources"]["duel"] = {k: v for k, v in duel.items() if v is not None}
    recipe.write_text(yaml.safe_dump(content))
    with pytest.raises(ConfigError, match=error):
        load_recipe(recipe)


def test_settings_of_the_run(tmp_path):
    recipe = {"recipe": str(write_recipe(tmp_path, rows(9)))}
    for settings, error in (
        ({"too_long": "cut"}, r"^data\.too_long=cut: a pair is never cut; use skip or error$"),
        (
            {"shown": ["all"]},
            r"^data\.shown=\['all'\] must be a list of one or more of nothing, wo",
        ),
        ({"refinement": "{answer}"}, r"^refinement has no place \{question\}"),
    ):
        with pytest.raises(ConfigError, match=error):
            recipe_of({**recipe, **settings})
    for key, value in (("shown", ["worse"]), ("refinement", TEMPLATE)):
        with pytest.raises(
            ConfigError, match=rf"^data\.{key} has no effect: recipe sft reads no p"
        ):
            recipe_of({"recipe": "sft", key: value})
    untouched = recipe_of({**recipe, "refinement": None, "shown": None})
    assert untouched.shown == SHOWN and untouched.refinement_text == default_text()


def test_pairs_that_nobody_says_are_some(tmp_path):
    recipe = write_recipe(tmp_path, rows(9), pairs=False)
    with pytest.raises(
        ConfigError, match="duel: its origin gives pairs; say `pairs: true`, or take"
    ):
        prepare(load_recipe(recipe), data_dir=tmp_path, vocab_size=320, block_tokens=BLOCK)


def test_a_tokenizer_is_trained_on_what_is_said(tmp_path):
    recipe = write_recipe(tmp_path, rows(60))
    content = yaml.safe_load(recipe.read_text())
    del content["tokenizer"]
    recipe.write_text(yaml.safe_dump(content))
    words = bpe.load(prepared(recipe, tmp_path / "data").tokenizer_path).get_vocab()
    assert "Yes" in words and not any("chosen" in word or "role" in word for word in words)


@pytest.mark.parametrize("stop", range(1, 9, 2))
def test_interrupted_at_any_write_it_goes_on(tmp_path, monkeypatch, stop):
    recipe = write_recipe(tmp_path, [*rows(60), EVIL])
    monkeypatch.setattr(conversation_shards, "_PORTION", 3000)
    whole = prepared(recipe, tmp_path / "whole")
    left, real = [stop], conversation_shards.IndexedWriter.add

    def counted(self, *arguments):
        left[0] -= 1
        if left[0] < 0:
            raise Unfinished("stopped")
        return real(self, *arguments)

    with monkeypatch.context() as patch:
        patch.setattr(conversation_shards.IndexedWriter, "add", counted)
        with pytest.raises(Unfinished, match="stopped"):
            prepared(recipe, tmp_path / "data")
    monkeypatch.setattr(clean, "_read_and_clean", lambda *_: pytest.fail("read again"))
    again = prepared(recipe, tmp_path / "data")
    assert again.manifest["files"] == whole.manifest["files"]
    assert again.manifest["sources"] == whole.manifest["sources"]


def test_workers_change_nothing(made, tmp_path, monkeypatch):
    lines, found = made
    monkeypatch.setattr(conversation_shards, "_PORTION", 3000)
    again = prepared(write_recipe(tmp_path, lines), tmp_path / "data", workers=2)
    assert again.fingerprint == found.fingerprint


def test_refinements_are_conversations(tmp_path):
    origin = {"_target_": "plm.data.sources.pairs.refinements"}
    recipe = write_recipe(tmp_path, rows(40), origin=origin, pairs=False, conversations=True)
    found = prepared(recipe, tmp_path / "data")
    assert found.pairs == [] and found.conversations == ["duel"]
    assert found.refinement == TEMPLATE and found.shown == ["nothing", "worse"]
    chat, parts = chat_of(found), by_name(found, "train") | by_name(found, "val")
    assert len(parts) == 80
    for number, row in enumerate(rows(40), start=1):
        for shown, middle in (("nothing", ""), ("worse", " (worse shown)")):
            ids, mask = expected(chat, row, shown)
            # The half with the better answer, and of its mask whether it is a target.
            size = sum(byte & 2 == 0 for byte in mask)
            name = f"rows.jsonl{middle}:{number}"
            assert parts[name][0].tolist() == ids[:size]
            assert parts[name][1].tolist() == [byte & 1 for byte in mask[:size]]
    one = prepared(recipe, tmp_path / "data", block=400, refinement=None, shown=["worse"])
    assert one.shown == ["worse"] and one.refinement == default_text()
    assert len(by_name(one, "train") | by_name(one, "val")) == 40


def test_two_templates_in_one_recipe_are_refused(tmp_path):
    origin = {"_target_": "plm.data.sources.pairs.refinements"}
    recipe = write_recipe(tmp_path, rows(9), origin=origin, pairs=False, conversations=True)
    content = yaml.safe_load(recipe.read_text())
    duel = content["sources"]["duel"]
    other = {**duel, "origin": {**duel["origin"], "template": TEMPLATE}}
    content["sources"]["other"] = other
    recipe.write_text(yaml.safe_dump(content))
    error = "its sources show answers with 2 templates, and a checkpoint knows one"
    with pytest.raises(ConfigError, match=error):
        prepared(recipe, tmp_path / "data", refinement=None)
    assert prepared(recipe, tmp_path / "data").refinement == TEMPLATE


def test_real_pairs_are_all_accounted_for(test_data, tmp_path):
    lines = []
    for line in (test_data / "gsm8k/model_solutions.jsonl").read_text().splitlines()[:120]:
        row = json.loads(line)
        said = [v for v in row.values() if isinstance(v, dict)]
        right = [one["solution"] for one in said if one["is_correct"]]
        wrong = [one["solution"] for one in said if not one["is_correct"]]
        lines += [
            {"prompt": row["question"], "chosen": a, "rejected": b, "score_chosen": 1.0,
             "score_rejected": 0.0}
            for a in right for b in wrong
        ]  # fmt: skip
    assert len(lines) > 60
    recipe = write_recipe(tmp_path, lines, steps=[
        {"_target_": "plm.data.steps.exact_dedup.exact_dedup"}])  # fmt: skip
    found = prepared(recipe, tmp_path / "data", block=2048)
    about = found.manifest["sources"]["duel"]
    kept = sum(about[split]["pairs"] for split in SPLITS)
    lost = sum(sum(tally["dropped"].values()) for tally in about["steps"].values())
    assert about["came_in"] == len(lines) == kept + lost
    assert kept > 30 and about["steps"]["encoding"]["dropped"]["longer than block_tokens"] > 0
    for split, streams in (("train", found.streams), ("val", found.held_out)):
        assert streams["duel"].n_parts == 3 * about[split]["pairs"]
        batch = assemble([streams["duel"]], windows_of(streams["duel"]), isolate=True)
        assert int((batch["labels"] != IGNORE_INDEX).sum()) == about[split]["targets"]
    train, val = ({found.document_name("duel", s, i).split(":")[1] for i in
                   range(found.sources["duel"][s].n_docs)} for s in SPLITS)  # fmt: skip
    asked = [{lines[int(number) - 1]["prompt"] for number in side} for side in (train, val)]
    assert not asked[0] & asked[1]
