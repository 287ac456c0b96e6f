"""Real text: a play, and grade-school mathematics in .jsonl."""

import json

import numpy as np
import yaml

from plm.data import tokenizer as bpe
from plm.data.prepare import prepare
from plm.data.recipe import RECIPES, load_recipe


def test_shakespeare(test_data, tmp_path):
    book = test_data / "tinyshakespeare" / "input.txt"
    made = prepare(
        load_recipe("text"),
        data_dir=tmp_path,
        vocab_size=512,
        block_tokens=256,
        workers=1,
        path=str(book),
    )
    source = made.manifest["sources"]["text"]
    assert 0.04 < source["val"]["bytes"] / book.stat().st_size < 0.06
    assert source["leak"]["share"] < 0.03
    assert made.manifest["tokenizer_size"] == 512
    total = sum(
        int(made.token_bytes[data.tokens(0, data.n_tokens)].sum())
        for data in made.sources["text"].values()
    )
    assert total == sum(source[split]["bytes"] for split in ("train", "val"))
    tokenizer = bpe.load(made.tokenizer_path)
    text = tokenizer.decode(made.sources["text"]["val"].document(0)[:-1].tolist())
    assert text in book.read_text()


def prepared(recipe, folder, **settings):
    return prepare(recipe, data_dir=folder, vocab_size=512, workers=1, **settings)


def test_gsm8k_from_a_file_and_as_the_hub_has_it(test_data, tmp_path):
    """The Hub's copy is stood in for by a folder of the same form, which the same code loads."""
    rows = (test_data / "gsm8k" / "train.jsonl").read_text("utf-8").splitlines(keepends=True)[:1500]
    (tmp_path / "train.jsonl").write_text("".join(rows), "utf-8")
    path = str(tmp_path / "train.jsonl")
    local = prepared(load_recipe("gsm8k"), tmp_path / "l", block_tokens=512, path=path)
    content = yaml.safe_load((RECIPES / "gsm8k_hub.yaml").read_text("utf-8"))
    hub = tmp_path / "main"
    hub.mkdir()
    (hub / "train.jsonl").write_text("".join(rows), "utf-8")
    content["sources"]["text"]["origin"] |= {"dataset": str(hub), "config": None}
    (tmp_path / "gsm8k_hub.yaml").write_text(yaml.safe_dump(content))
    remote = prepared(load_recipe(tmp_path / "gsm8k_hub.yaml"), tmp_path / "h", block_tokens=512)
    assert remote.fingerprint == local.fingerprint
    source = local.manifest["sources"]["text"]
    assert source["train"]["documents"] + source["val"]["documents"] > 1480
    assert source["packing"]["utilisation"] > 0.95
    tokenizer = bpe.load(local.tokenizer_path)
    question = json.loads(rows[0])["question"]
    texts = [
        tokenizer.decode(local.sources["text"][split].document(i)[:-1].tolist())
        for split in ("train", "val")
        for i in range(source[split]["documents"])
    ]
    assert sum(text.startswith(question) for text in texts) == 1
    # Every problem that fits stands whole in one window.
    stream = local.streams["text"]
    first = json.loads(rows[1])
    windows = stream.windows(np.arange(stream.n_windows) * 512, 513)[:, :-1]
    shown = [tokenizer.decode(row.tolist()) for row in windows]
    whole = f"{first['question']}\n\n{first['answer']}"
    assert sum(whole in text for text in shown) == 1
