"""The same rows through TRL's supervised fine-tuning: ids, labels and loss.

TRL's completion-only labels go on to the end of the text, so that the line break that ChatML writes
behind the end mark is learnt too; ours, as its assistant-only labels, stop at the mark.
"""

import json
from pathlib import Path

import numpy as np
import pytest
import torch
import yaml

from plm.data import tokenizer as bpe
from plm.data.conversation_shards import MASK
from plm.data.indexed import IndexedDataset
from plm.data.loader import assemble, cumulative_lengths
from plm.data.order import Windows
from plm.data.prepare import prepare
from plm.data.prepared import SPLITS, Prepared
from plm.data.recipe import load_recipe
from plm.formats.chat import CHATML
from plm.loss.cross_entropy import cross_entropy
from plm.model.context import Context
from plm.pretrained import load
from tests.formats.foreign import make

pytestmark = pytest.mark.peers

IGNORED = -100
BLOCK = 512
SPECIAL = ["<|endoftext|>", "<|im_start|>", "<|im_end|>"]
ADD = {"type": "function", "function": {"name": "add", "arguments": {"a": 2, "b": "é"}}}
TOOLS = [{"type": "function", "function": {"name": "add", "description": "Adds."}}]
RULE = {"role": "system", "content": "Be brief."}


def talk(number: int) -> list[dict]:
    """One or two turns, every third with a system message."""
    said = [
        f"What is {number} and 日本 two?",
        f" It is\n{number + 2}. ",
        "And\n\nthen?",
        "No idea 🙂",
    ]
    roles = ["user", "assistant"] * 2
    pairs = zip(roles, said, strict=True)
    messages = [{"role": role, "content": text} for role, text in pairs]
    return [RULE] * (number % 3 == 0) + messages[: 2 + 2 * (number % 2)]


def with_tools() -> list[dict]:
    return [
        {"role": "user", "content": "Two and two?"},
        {"role": "assistant", "content": "I add.", "tool_calls": [ADD, ADD]},
        {"role": "tool", "content": "4"},
        {"role": "assistant", "content": "Four."},
    ]


def prepared(folder: Path, rows: list[dict]) -> Prepared:
    words = [json.dumps(row, ensure_ascii=False) for row in rows]
    bpe.save(bpe.train(words, vocab_size=400, special_tokens=SPECIAL), folder / "tokenizer.json")
    lines = "".join(json.dumps(row) + "\n" for row in rows)
    (folder / "rows.jsonl").write_text(lines, encoding="utf-8")
    target = "plm.data.sources.conversations.conversations"
    source = {
        "origin": {"_target_": target, "path": str(folder / "rows.jsonl"), "bad_rows": "error"},
        "licence": "none",
        "revision": "1",
        "split": {"val_share": 0.2},
        "conversations": True,
        "too_long": "error",
    }
    recipe = {"sources": {"talk": source}, "tokenizer": {"file": str(folder / "tokenizer.json")}}
    (folder / "recipe.yaml").write_text(yaml.safe_dump(recipe))
    return prepare(
        load_recipe(folder / "recipe.yaml"),
        data_dir=folder / "data",
        vocab_size=400,
        block_tokens=BLOCK,
        workers=1,
    )


def ours(found: Prepared) -> dict[int, tuple[list[int], list[int]]]:
    """Ids and labels of each row, by its number from 0."""
    result = {}
    for split in SPLITS:
        data = found.sources["talk"][split]
        prefix = found.prefix("talk", split)
        mask = IndexedDataset(prefix.with_name(prefix.name + MASK))
        for i in range(data.n_docs):
            ids = data.document(i).astype(np.int64)
            labels = np.where(mask.document(i) > 0, ids, IGNORED)
            number = int(found.document_name("talk", split, i).split(":")[1]) - 1
            result[number] = (ids.tolist(), labels.tolist())
    return result


def trainer(folder: Path, rows: list[dict], model: object = None, **settings: object):
    """TRL's trainer on the rows, with our tokenizer and template."""
    from datasets import Dataset
    from transformers import PreTrainedTokenizerFast
    from trl import SFTConfig, SFTTrainer

    tokenizer = PreTrainedTokenizerFast(
        tokenizer_file=str(folder / "tokenizer.json"),
        eos_token="<|im_end|>",
        pad_token="<|endoftext|>",
    )
    tokenizer.chat_template = CHATML.read_text(encoding="utf-8")
    arguments = SFTConfig(
        output_dir=str(folder / "trl"),
        use_cpu=True,
        bf16=False,
        report_to=[],
        shuffle_dataset=False,
        max_length=None,
        **settings,
    )
    model = model or make("llama", folder / "model", vocab_size=400, max_position_embeddings=BLOCK)
    return SFTTrainer(
        model=model,
        args=arguments,
        train_dataset=Dataset.from_list(rows),
        processing_class=tokenizer,
    )


def theirs(made) -> list[tuple[list[int], list[int]]]:
    return [(list(row["input_ids"]), list(row["labels"])) for row in made.train_dataset]


@pytest.fixture
def trl():
    return pytest.importorskip("trl", reason="make test-peers installs it")


def test_assistant_only(trl, tmp_path):
    rows = [{"messages": talk(i)} for i in range(40)]
    found = ours(prepared(tmp_path, rows))
    made = trainer(tmp_path, rows, assistant_only_loss=True)
    assert [found[i] for i in range(40)] == theirs(made)


def test_tools(trl, tmp_path):
    rows = [{"messages": with_tools(), "tools": TOOLS}] + [
        {"messages": talk(i), "tools": TOOLS} for i in range(40)
    ]
    found = ours(prepared(tmp_path, rows))
    # As text, which TRL reads: a table would give each tool the keys of all.
    as_text = [{**row, "tools": json.dumps(row["tools"])} for row in rows]
    made = trainer(tmp_path, as_text, assistant_only_loss=True)
    assert [found[i] for i in range(41)] == theirs(made)


@pytest.mark.parametrize("assistant_only", [True, False])
def test_completion_only(trl, tmp_path, assistant_only):
    rows = [{"prompt": talk(i)[:-1], "completion": talk(i)[-1:]} for i in range(40)]
    found = ours(prepared(tmp_path, rows))
    made = trainer(tmp_path, rows, completion_only_loss=True, assistant_only_loss=assistant_only)
    tokenizer = bpe.load(tmp_path / "tokenizer.json")
    line_break = tokenizer.encode("\n").ids
    for number, (ids, labels) in enumerate(theirs(made)):
        if not assistant_only:
            assert labels[-1:] == line_break
            labels = [*labels[:-1], IGNORED]
        assert found[number] == (ids, labels)


def test_loss(trl, tmp_path):
    rows = [{"messages": talk(i)} for i in range(40)]
    data = prepared(tmp_path, rows)
    peer = make("llama", tmp_path / "model", vocab_size=400, max_position_embeddings=BLOCK)
    model = load(tmp_path / "model").model
    made = trainer(tmp_path, rows, peer, assistant_only_loss=True)
    peer.eval()
    batch = made.data_collator([made.train_dataset[i] for i in range(40)])
    with torch.no_grad():
        expected = float(made.compute_loss(made.model, batch))
    total, count = 0.0, 0
    for stream in (data.streams["talk"], data.held_out["talk"]):
        zeros = np.zeros(stream.n_windows, dtype=np.int64)
        windows = Windows(zeros, np.arange(stream.n_windows) * BLOCK, zeros, BLOCK)
        packed = assemble([stream], windows, isolate=True)
        context = Context(
            positions=packed["positions"],
            doc_ids=packed["doc_ids"],
            cu_seqlens=cumulative_lengths(packed["positions"]),
        )
        with torch.no_grad():
            loss = model(
                packed["tokens"],
                context=context,
                labels=packed["labels"],
                losses={"loss": cross_entropy},
            ).losses["loss"]
        total, count = total + float(loss.total), count + int(loss.count)
    assert count == int((batch["labels"][:, 1:] != IGNORED).sum())
    assert abs(total / count - expected) < 1e-6 * expected
