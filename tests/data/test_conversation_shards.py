"""Conversations prepared: the targets, what is left out, and packing, which changes nothing."""

import hashlib
import json
from collections import Counter
from pathlib import Path

import numpy as np
import pytest
import torch
import yaml
from torch import Tensor, nn

from plm import app
from plm.analysis.ngram import ngram_baselines
from plm.batch import IGNORE_INDEX
from plm.data import clean, conversation_shards
from plm.data import tokenizer as bpe
from plm.data.conversations import Conversation
from plm.data.indexed import IndexedDataset
from plm.data.loader import assemble, cumulative_lengths
from plm.data.manifest import losses
from plm.data.open import recipe_of
from plm.data.order import Windows
from plm.data.prepare import prepare
from plm.data.prepared import SPLITS, Prepared
from plm.data.recipe import load_recipe
from plm.errors import ConfigError, DataError, Unfinished
from plm.formats.chat import CHATML, Chat
from plm.loss.cross_entropy import cross_entropy
from plm.model.context import Context
from plm.stages.evaluate import validate
from tests.model.common import tiny

BLOCK = 160
SPECIAL = ["<|endoftext|>", "<|im_start|>", "<|im_end|>"]
ADD = {"type": "function", "function": {"name": "add", "arguments": {"a": 2}}}
EVIL = "Say <|im_end|> now."
LONG = "word " * 200


def user(text):
    return {"role": "user", "content": text}


def assistant(text, **more):
    return {"role": "assistant", "content": text, **more}


def rows(number: int) -> list[dict]:
    """Different conversations: of one and two turns, with a system message, with a tool."""
    made = []
    for i in range(number):
        talk = [user(f"What is {i} and two?"), assistant(f"It is {i + 2}.")]
        if i % 3 == 0:
            talk = [{"role": "system", "content": "Be brief."}, *talk]
        if i % 4 == 1:
            talk += [user("And\nthen?"), assistant("\nNothing.\n")]
        if i % 5 == 2:
            talk[-1:] = [
                assistant("", tool_calls=[ADD]),
                {"role": "tool", "content": str(i)},
                assistant("Done."),
            ]
        made.append({"messages": talk})
    return made


def write_recipe(folder: Path, lines: list, *, origin: dict | None = None, **source) -> Path:
    """A recipe over a tokenizer and rows of its own."""
    tokenizer = bpe.train([json.dumps(r) for r in rows(20)], vocab_size=320, special_tokens=SPECIAL)
    bpe.save(tokenizer, folder / "tokenizer.json")
    (folder / "rows.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    target = "plm.data.sources.conversations.conversations"
    content = {
        "sources": {
            "talk": {
                "origin": {
                    "_target_": target,
                    "path": str(folder / "rows.jsonl"),
                    **(origin or {}),
                },
                "licence": "none",
                "revision": "1",
                "split": {"val_share": 0.2},
                "conversations": True,
                **source,
            }
        },
        "tokenizer": {"file": str(folder / "tokenizer.json")},
    }
    (folder / "recipe.yaml").write_text(yaml.safe_dump(content))
    return folder / "recipe.yaml"


def prepared(recipe: Path, folder: Path, **change) -> Prepared:
    settings = {"vocab_size": 320, "block_tokens": BLOCK, "workers": 1, **change}
    loaded = recipe if not isinstance(recipe, Path) else load_recipe(recipe)
    return prepare(loaded, data_dir=folder, **settings)


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    """(rows, the prepared data)."""
    folder = tmp_path_factory.mktemp("talk")
    lines = rows(80)
    return lines, prepared(write_recipe(folder, lines), folder / "data")


def everything(found: Prepared, split: str) -> dict[str, Tensor]:
    """All packed windows of a split, as they are trained on."""
    stream = (found.streams if split == "train" else found.held_out)["talk"]
    zeros = np.zeros(stream.n_windows, dtype=np.int64)
    offsets = np.arange(stream.n_windows) * BLOCK
    return assemble([stream], Windows(zeros, offsets, zeros, BLOCK), isolate=True)


def by_name(found: Prepared, split: str) -> dict[str, tuple[np.ndarray, np.ndarray]]:
    """Ids and mask of each conversation of a split."""
    data = found.sources["talk"][split]
    mask = IndexedDataset(found.folder / f"talk-{split}.mask")
    assert np.array_equal(mask.doc_starts, data.doc_starts)
    return {
        found.document_name("talk", split, i): (data.document(i), mask.document(i))
        for i in range(data.n_docs)
    }


def test_every_conversation_comes_back_with_its_targets(made):
    lines, found = made
    chat = Chat(bpe.load(found.tokenizer_path))
    written = {}
    for split in SPLITS:
        part = by_name(found, split)
        about = found.manifest["sources"]["talk"][split]
        assert about["documents"] == len(part)
        assert about["tokens"] == sum(len(ids) for ids, _ in part.values())
        assert about["targets"] == sum(int(mask.sum()) for _, mask in part.values()) > 0
        texts = [chat.render(lines[int(n.split(":")[1]) - 1]["messages"]) for n in part]
        plain = [t.replace(SPECIAL[1], "").replace(SPECIAL[2], "") for t in texts]
        assert about["bytes"] == sum(len(t.encode()) for t in plain)
        written |= part
    assert len(written) == 80
    for number, row in enumerate(lines, start=1):
        ids, mask = chat.encode(row["messages"])
        assert written[f"rows.jsonl:{number}"][0].tolist() == ids.tolist()
        assert written[f"rows.jsonl:{number}"][1].tolist() == mask.tolist()
    assert found.manifest["sources"]["talk"]["steps"] == {}


def test_what_the_manifest_says_of_the_template(made):
    _, found = made
    template = CHATML.read_text()
    assert found.chat_template == template == found.manifest["chat_template"]
    assert found.manifest["chat_template_sha256"] == hashlib.sha256(template.encode()).hexdigest()
    assert found.conversations == found.packed == ["talk"]
    assert {"talk-train.mask.bin", "talk-val.mask.idx"} <= set(found.manifest["files"])


def test_baselines_leave_conversations_out(made):
    assert ngram_baselines(made[1]) == {}


@pytest.mark.parametrize("split", SPLITS)
def test_packed_labels_are_those_of_the_conversations(made, split):
    _, found = made
    packed = everything(found, split)
    kept = packed["labels"] != IGNORE_INDEX
    pairs = torch.stack([packed["tokens"][kept], packed["positions"][kept], packed["labels"][kept]])
    wanted = [
        (int(ids[place - 1]), place - 1, int(ids[place]))
        for ids, mask in by_name(found, split).values()
        for place in np.flatnonzero(mask)
    ]
    assert Counter(map(tuple, pairs.T.tolist())) == Counter(wanted)
    assert kept.sum() == found.manifest["sources"]["talk"][split]["targets"]


def forward(model: nn.Module, batch: dict[str, Tensor]) -> tuple[Tensor, Tensor]:
    """Sum and number of a batch's losses."""
    context = Context(
        positions=batch["positions"],
        doc_ids=batch["doc_ids"],
        cu_seqlens=cumulative_lengths(batch["positions"]),
    )
    loss = model(
        batch["tokens"], context=context, labels=batch["labels"], losses={"loss": cross_entropy}
    ).losses["loss"]
    return loss.total, loss.count


def alone(ids: np.ndarray, mask: np.ndarray) -> dict[str, Tensor]:
    """One conversation as a batch of its own."""
    tokens = torch.from_numpy(ids.astype(np.int64))[None]
    labels = torch.where(torch.from_numpy(mask.astype(bool))[None], tokens, IGNORE_INDEX)
    shifted = {"tokens": tokens[:, :-1], "labels": labels[:, 1:]}
    positions = torch.arange(tokens.shape[1] - 1)[None]
    return {**shifted, "positions": positions, "doc_ids": torch.zeros_like(positions)}


@pytest.mark.parametrize("attention", ["mla", "gqa"])
def test_loss_of_a_packed_batch_is_that_of_the_conversations(made, attention):
    _, found = made
    model = tiny(
        "scale.vocab_size=320", f"model/attention={attention}", "scale.max_position_embeddings=160"
    )
    model = model.float()
    with torch.no_grad():
        total, count = forward(model, everything(found, "val"))
        each = [forward(model, alone(*pair)) for pair in by_name(found, "val").values()]
    targets = sum(int(n) for _, n in each)
    assert int(count) == targets
    expected = sum(float(t) for t, _ in each) / targets
    assert abs(float(total) / targets - expected) < 1e-6 * expected


def test_conversations_do_not_see_each_other(made):
    _, found = made
    model = tiny("scale.vocab_size=320", "scale.max_position_embeddings=160").float()
    whole = everything(found, "val")
    row = int(whole["doc_ids"].max(dim=1).values.argmax())
    batch = {name: part[row : row + 1] for name, part in whole.items()}
    first, others = batch["doc_ids"] == 0, batch["doc_ids"] > 0
    assert first.any() and others.any()
    context = Context(positions=batch["positions"], doc_ids=batch["doc_ids"])
    changed = torch.where(first, (batch["tokens"] + 7) % 320, batch["tokens"])
    with torch.no_grad():
        before = model(batch["tokens"], context=context).logits
        context = Context(positions=batch["positions"], doc_ids=batch["doc_ids"])
        after = model(changed, context=context).logits
    assert (after - before)[first].abs().max() > 0
    assert (after - before)[others].abs().max() == 0


def test_held_out_loss_is_over_targets_alone(made):
    _, found = made
    model = tiny("scale.vocab_size=320", "scale.max_position_embeddings=160").float()
    result = validate(
        model,
        found.held_out,
        found.token_bytes,
        seq_len=BLOCK,
        windows=100,
        micro_batch_size=3,
        isolate=True,
        device=torch.device("cpu"),
    )["talk"]
    pairs = by_name(found, "val").values()
    with torch.no_grad():
        each = [forward(model, alone(*pair)) for pair in pairs]
    total, count = sum(float(t) for t, _ in each), sum(int(n) for _, n in each)
    assert result["loss"] == pytest.approx(total / count, rel=1e-5)
    size = sum(int(found.token_bytes[ids[mask.astype(bool)]].sum()) for ids, mask in pairs)
    assert result["bpb"] == pytest.approx(total / np.log(2) / size, rel=1e-5)


GIVEN = {"prompt": [user("One?"), assistant("1."), user("Two?")], "completion": [assistant("2.")]}


def test_answers_of_a_prompt_are_no_targets(tmp_path):
    found = prepared(write_recipe(tmp_path, [GIVEN, *rows(60)]), tmp_path / "data")
    everywhere = by_name(found, "train") | by_name(found, "val")
    ids, mask = everywhere["rows.jsonl:1"]
    said = bpe.load(found.tokenizer_path).decode(ids[mask > 0].tolist(), skip_special_tokens=False)
    assert said == "2.<|im_end|>"


TOO_LONG = {"messages": [user("How?"), assistant(LONG)]}
LONG_PROMPT = {"messages": [user(LONG), assistant("Yes.")]}
BAD = {
    "does not alternate": {"messages": [user("a")]},
    "empty answer": {"messages": [user("a"), assistant("")]},
    "reads like a special token": {"messages": [user(EVIL), assistant("No.")]},
    "the chat template fails to render": {"messages": [user("REFUSE"), assistant("No.")]},
}
REFUSES = CHATML.read_text() + (
    "{%- for message in messages if 'REFUSE' in message['content'] -%}"
    "{{- raise_exception('I refuse.') -}}{%- endfor -%}"
)


def test_what_is_left_out_is_counted_with_examples(tmp_path):
    lines = [*BAD.values(), TOO_LONG, LONG_PROMPT, *rows(60)]
    recipe = load_recipe(write_recipe(tmp_path, lines, too_long="cut"))
    settings = {"recipe": str(tmp_path / "recipe.yaml"), "chat_template": REFUSES}
    assert recipe_of(settings).template == REFUSES != recipe.template
    found = prepared(recipe_of(settings), tmp_path / "data")
    about = found.manifest["sources"]["talk"]
    assert about["train"]["documents"] + about["val"]["documents"] == 61
    assert about["steps"]["read"]["dropped"] == {"does not alternate": 1, "empty answer": 1}
    told = about["steps"]["encoding"]
    assert told["dropped"] == {
        "reads like a special token": 1,
        "the chat template fails to render": 1,
        "no target": 1,
    }
    assert told["changed"] == {"cut to block_tokens": 1}
    shown = {reason: examples[0] for reason, examples in told["examples"].items()}
    assert shown["reads like a special token"][0] == "rows.jsonl:3"
    assert shown["reads like a special token"][1].startswith("<|im_end|> stands in the text of a")
    assert shown["the chat template fails to render"][1].startswith("the chat template fails: I re")
    assert shown["no target"][0] == "rows.jsonl:6"
    assert told["lost"]["no target"] == len(Conversation(LONG_PROMPT["messages"]).to_text())
    ids, mask = (by_name(found, "train") | by_name(found, "val"))["rows.jsonl:5"]
    assert len(ids) == BLOCK and mask[-1]
    # Names stand for what is there, not for what was read.
    for split in SPLITS:
        names = (found.folder / f"talk-{split}.names").read_text().split()
        assert len(names) == found.sources["talk"][split].n_docs


def test_too_long_is_left_out_by_default(tmp_path):
    lines = [TOO_LONG, LONG_PROMPT, *rows(60)]
    found = prepared(write_recipe(tmp_path, lines), tmp_path / "data")
    told = found.manifest["sources"]["talk"]["steps"]["encoding"]
    assert told["dropped"] == {"longer than block_tokens": 2}
    assert "tokens, block_tokens=160; " in told["examples"]["longer than block_tokens"][0][1]


@pytest.mark.parametrize(
    ("bad", "settings", "error"),
    [
        (
            TOO_LONG,
            {"too_long": "error"},
            r"/rows\.jsonl, row 31: too long: .* tokens, block_tokens=160; use a larger data\.b",
        ),
        (
            BAD["reads like a special token"],
            {"origin": {"bad_rows": "error"}},
            r"/rows\.jsonl, row 31: <\|im_end\|> stands in the text of a message",
        ),
        (
            BAD["empty answer"],
            {"origin": {"bad_rows": "error"}},
            r"/rows\.jsonl, row 31: message 1: the assistant says nothing",
        ),
    ],
)
def test_a_bad_row_can_be_an_error(tmp_path, bad, settings, error):
    recipe = write_recipe(tmp_path, [*rows(30), bad], **settings)
    with pytest.raises(DataError, match=error) as caught:
        prepared(recipe, tmp_path / "data")
    assert "\n" not in str(caught.value) and str(caught.value).startswith(str(tmp_path))
    # A mistake of the user's leaves nothing behind.
    assert not [path for path in (tmp_path / "data").iterdir() if path.is_dir()]


def test_conversations_that_are_all_too_long(tmp_path):
    words = "a word of many " * 60
    long = [{"messages": [user(f"{n}?"), assistant(words)]} for n in range(30)]
    with pytest.raises(DataError) as caught:
        prepared(write_recipe(tmp_path, long), tmp_path / "data")
    said = str(caught.value)
    assert "source talk: all 30 conversations that there are left are longer than a window" in said
    assert "scale.sft.seq_len" in said and "\n" not in said


def test_too_few_conversations(tmp_path):
    bad = [BAD["reads like a special token"]] * 3
    recipe = write_recipe(tmp_path, [*rows(4), *bad])
    error = (
        r"source talk is too small: \d conversations in (train|val) fill \d windows of block_tokens"
        r"=160, it needs \d; .* \(dropped by encoding: reads like a special token 3, first "
        rf"{tmp_path}/rows\.jsonl, row \d: <\|im_end\|> stands in the text of a message\)"
    )
    with pytest.raises(DataError, match=error):
        prepared(recipe, tmp_path / "data")


@pytest.mark.parametrize(
    ("lines", "error"),
    [
        (
            [{"question": "a", "answer": "b"}, BAD["empty answer"], {"question": "c"}],
            r"source talk: no document is left \(dropped by read: no conversation 2, empty answer 1"
            r", first {}/rows\.jsonl, row 1: a row must have messages, .*; it has question, answer",
        ),
        (
            ["\n", "\n"],
            r"source talk: no document is left: {}/rows\.jsonl holds nothing to read, or bl",
        ),
        (rows(1), r"source talk has one conversation only \({}/rows\.jsonl, row 1\); to train and"),
        (
            rows(1) * 3,
            r"source talk: all its 3 conversations begin with the same question \(the fir",
        ),
    ],
)
def test_nothing_left_or_too_little_to_split(tmp_path, lines, error):
    recipe = write_recipe(tmp_path, [] if lines == ["\n", "\n"] else lines)
    if lines == ["\n", "\n"]:
        (tmp_path / "rows.jsonl").write_text("\n \n")
    with pytest.raises(DataError, match=error.format(tmp_path)):
        prepared(recipe, tmp_path / "data")
    assert not [path for path in (tmp_path / "data").iterdir() if path.is_dir()]


def test_what_is_lost_is_one_line_a_source(tmp_path):
    lines = [TOO_LONG, LONG_PROMPT, BAD["empty answer"], *rows(60)]
    found = prepared(write_recipe(tmp_path, lines), tmp_path / "data")
    said = "talk: 3 of 63 (longer than block_tokens 2, empty answer 1), first rows.jsonl:3"
    assert losses(found.manifest) == [(said, False)]
    (tmp_path / "more").mkdir()
    found = prepared(write_recipe(tmp_path / "more", [*lines, *[TOO_LONG] * 6]), tmp_path / "data")
    ((said, large),) = losses(found.manifest)
    assert said.startswith("talk: 9 of 69 (longer than block_tokens 8, empty answer 1)") and large
    # What the recipe's own steps leave out is said, and is no reason for a warning.
    step = {"_target_": "plm.data.steps.exact_dedup.exact_dedup"}
    (tmp_path / "twice").mkdir()
    found = prepared(
        write_recipe(tmp_path / "twice", rows(60) * 2, steps=[step]), tmp_path / "data"
    )
    assert losses(found.manifest) == [
        ("talk: 60 of 120 (seen before 60), first rows.jsonl:61", False)
    ]


def test_the_terminal_says_what_is_lost(tmp_path, capsys):
    recipe = write_recipe(tmp_path, [BAD["empty answer"], *rows(60)])
    data = {"recipe": str(recipe), "path": None, "dir": str(tmp_path / "data"), "workers": 1}
    settings = {"data": {**data, "vocab_size": 320, "block_tokens": BLOCK, "seed": 0}}
    app.prepare(settings)
    said = capsys.readouterr().err.splitlines()
    (line,) = [line for line in said if "dropped" in line]
    assert line == "dropped  talk: 1 of 61 (empty answer 1), first rows.jsonl:1"
    assert said[said.index(line) + 1].startswith("what the data hold: ")
    write_recipe(tmp_path, [*[BAD["empty answer"]] * 7, *rows(60)])
    app.prepare(settings)
    assert "\nwarning: dropped  talk: 7 of 67 (" in capsys.readouterr().err
    # It is said once, as all that preparing says.
    app.prepare(settings)
    assert "dropped" not in capsys.readouterr().err


def test_bad_rows_and_too_long_as_settings_of_the_run(tmp_path):
    recipe = write_recipe(tmp_path, [TOO_LONG, BAD["empty answer"], *rows(60)])
    settings = {"recipe": str(recipe)}
    plain = prepared(recipe_of(settings), tmp_path / "data")
    same = {**settings, "bad_rows": "skip", "too_long": "skip"}
    assert prepared(recipe_of(same), tmp_path / "data").folder == plain.folder
    cut = prepared(recipe_of({**settings, "too_long": "cut"}), tmp_path / "data")
    assert cut.folder != plain.folder
    assert cut.manifest["sources"]["talk"]["steps"]["encoding"]["changed"]
    for key, error in (
        ("bad_rows", r"row 2: message 1: the assistant says nothing"),
        (
            "too_long",
            r"row 1: too long: .*; use a larger data\.block_tokens, or data\.too_long=skip",
        ),
    ):
        with pytest.raises(DataError, match=error):
            prepared(recipe_of({**settings, key: "error"}), tmp_path / "data")
        with pytest.raises(ConfigError, match=rf"data\.{key}=never: one of skip, "):
            recipe_of({**settings, key: "never"})
        with pytest.raises(ConfigError, match=rf"data\.{key}=error has no effect: recipe embedded"):
            recipe_of({"recipe": "embedded", key: "error"})
    # Conversations that a recipe makes itself have no rows.
    with pytest.raises(ConfigError, match=r"data\.bad_rows=error has no effect: recipe sft"):
        recipe_of({"recipe": "sft", "bad_rows": "error"})
    assert all(
        s.too_long == "cut"
        for s in recipe_of({"recipe": "sft", "too_long": "cut"}).sources.values()
    )


def test_no_tokenizer_is_trained_where_one_is_taken_over(tmp_path):
    told = []
    found = prepared(
        write_recipe(tmp_path, rows(60)), tmp_path / "data", progress=lambda *t: told.append(t[0])
    )
    assert "encoding" in told and "training the tokenizer" not in told
    assert "training the tokenizer" not in found.manifest["seconds"]


@pytest.mark.parametrize("stop", range(1, 13))
def test_interrupted_at_any_write_it_goes_on(made, tmp_path, monkeypatch, stop):
    lines, _ = made
    recipe = write_recipe(tmp_path, [*lines, BAD["reads like a special token"]])
    monkeypatch.setattr(conversation_shards, "_PORTION", 4000)
    whole = prepared(recipe, tmp_path / "whole")
    left = [stop]

    def counting(real):
        def call(self, *arguments):
            left[0] -= 1
            if left[0] < 0:
                raise Unfinished("stopped")
            return real(self, *arguments)

        return call

    with monkeypatch.context() as patch:
        for kind, name in (
            (conversation_shards.IndexedWriter, "add"),
            (conversation_shards.IndexedWriter, "_write_index"),
            (conversation_shards.Journal, "add"),
        ):
            if kind is conversation_shards.Journal:
                # Not those of the text store.
                real = kind.add
                patch.setattr(
                    kind,
                    name,
                    lambda self, record, real=real: (
                        counting(real)(self, record)
                        if "rows" in self.path.name and "targets" in record
                        else real(self, record)
                    ),
                )
            else:
                patch.setattr(kind, name, counting(getattr(kind, name)))
        with pytest.raises(Unfinished, match="stopped"):
            prepared(recipe, tmp_path / "data")
    monkeypatch.setattr(clean, "_read_and_clean", lambda *_: pytest.fail("read again"))
    again = prepared(recipe, tmp_path / "data")
    assert again.manifest["files"] == whole.manifest["files"]
    assert again.manifest["sources"] == whole.manifest["sources"]
    assert again.fingerprint == whole.fingerprint
    assert {p.name for p in again.folder.iterdir()} == {p.name for p in whole.folder.iterdir()}


def test_workers_change_nothing(made, tmp_path, monkeypatch):
    lines, found = made
    monkeypatch.setattr(conversation_shards, "_PORTION", 4000)
    again = prepared(write_recipe(tmp_path, lines), tmp_path / "data", workers=2)
    assert again.fingerprint == found.fingerprint


def test_a_template_is_part_of_the_key_and_comes_as_text_or_file(tmp_path):
    settings = {"recipe": str(write_recipe(tmp_path, rows(60)))}
    plain = prepared(recipe_of(settings), tmp_path / "data")
    other = CHATML.read_text().replace("{{- '\\n' -}}\n  {%- elif", "{%- elif")
    assert other != CHATML.read_text()
    (tmp_path / "other.jinja").write_text(other)
    found = [
        prepared(recipe_of({**settings, "chat_template": named}), tmp_path / "data")
        for named in (other, str(tmp_path / "other.jinja"))
    ]
    assert found[0].folder == found[1].folder != plain.folder
    assert found[0].fingerprint != plain.fingerprint
    assert found[0].chat_template == other
    with pytest.raises(
        ConfigError, match=r"data\.chat_template=none\.jinja: neither a template no"
    ):
        recipe_of({**settings, "chat_template": "none.jinja"})
    empty = tmp_path / "empty.jinja"
    empty.write_text("\n")
    with pytest.raises(
        ConfigError, match=rf"data\.chat_template={empty} is empty; name a file with"
    ):
        recipe_of({**settings, "chat_template": str(empty)})


def test_templates_that_cannot_be_trained_with_stop_it_early(tmp_path, monkeypatch):
    monkeypatch.setattr(clean, "_read_and_clean", lambda *_: pytest.fail("read"))
    settings = {"recipe": str(write_recipe(tmp_path, rows(9)))}
    file = tmp_path / "mine.jinja"
    for template, error in (
        ("{% if %}", "does not parse"),
        ("{{ messages.none.at_all }}", "cannot be used, it fails to render a question"),
        ("{{ messages[0].content }}", "does not write what the assistant says"),
        ("{% for m in messages %}{{ m.content }}{% endfor %}", "ends an .* would never stop"),
    ):
        file.write_text(template)
        for named, where in (
            (template, "^data.chat_template"),
            (file, f"^data.chat_template={file}"),
        ):
            with pytest.raises(ConfigError, match=f"{where} {error}"):
                prepared(recipe_of({**settings, "chat_template": str(named)}), tmp_path / "data")
    bpe.save(
        bpe.train(["Some words."], vocab_size=300, special_tokens=SPECIAL[:1]),
        tmp_path / "tokenizer.json",
    )
    with pytest.raises(ConfigError, match=r"lacks <\|im_start\|> and <\|im_end\|>"):
        prepared(recipe_of(settings), tmp_path / "data")


@pytest.mark.parametrize(
    ("settings", "error"),
    [
        ({"conversations": "yes"}, "talk.conversations='yes' must be true or false"),
        ({"too_long": "keep"}, "talk.too_long=keep: one of skip, error, cut"),
        ({"split": {"by": "pieces"}}, "split.by=pieces would cut conversations in two"),
        ({"conversations": False, "too_long": "cut"}, "too_long has no effect without"),
        ({"origin": None, "shards": {"train": "a"}}, "shards hold tokens; name an origin"),
    ],
)
def test_settings_of_a_source(tmp_path, settings, error):
    recipe = write_recipe(tmp_path, rows(9))
    content = yaml.safe_load(recipe.read_text())
    talk = {**content["sources"]["talk"], **settings}
    content["sources"]["talk"] = {k: v for k, v in talk.items() if v is not None}
    recipe.write_text(yaml.safe_dump(content))
    with pytest.raises(ConfigError, match=error):
        load_recipe(recipe)


def test_conversations_that_nobody_says_are_some(tmp_path):
    recipe = write_recipe(tmp_path, rows(60), conversations=False)
    with pytest.raises(ConfigError, match="its origin gives conversations; say `conversations: tr"):
        prepared(recipe, tmp_path / "data")
    step = {"_target_": "plm.data.steps.chat.chat"}
    as_text = write_recipe(tmp_path, rows(60), conversations=False, steps=[step])
    found = prepared(as_text, tmp_path / "data")
    assert found.chat_template is None and not found.conversations
    tokenizer = bpe.load(found.tokenizer_path)
    text = tokenizer.decode(found.sources["talk"]["val"].document(0)[:-1].tolist())
    assert text.startswith("<|im_start|>")


def test_a_split_by_size_never_cuts_one(tmp_path):
    found = prepared(
        write_recipe(tmp_path, rows(60), split={"by": "auto", "val_share": 0.2}), tmp_path / "data"
    )
    assert found.manifest["sources"]["talk"]["steps"] == {}
    assert sum(found.sources["talk"][split].n_docs for split in SPLITS) == 60


def test_a_tokenizer_is_trained_on_what_is_said(tmp_path):
    recipe = write_recipe(tmp_path, rows(60))
    content = yaml.safe_load(recipe.read_text())
    del content["tokenizer"]
    recipe.write_text(yaml.safe_dump(content))
    found = prepared(recipe, tmp_path / "data")
    words = bpe.load(found.tokenizer_path).get_vocab()
    assert "ĠWhat" not in words and "What" in words
    assert not any("ontent" in word or "role" in word for word in words)
