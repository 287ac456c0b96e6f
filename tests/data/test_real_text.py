"""Real text: a play, and grade-school mathematics in .jsonl."""

from itertools import islice

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


def test_gsm8k(test_data, tmp_path):
    content = yaml.safe_load((RECIPES / "text.yaml").read_text())
    content["sources"]["text"]["origin"]["fields"] = ["question", "answer"]
    rows = tmp_path / "train.jsonl"
    with open(test_data / "gsm8k" / "train.jsonl", encoding="utf-8") as file:
        rows.write_text("".join(islice(file, 1500)), encoding="utf-8")
    (tmp_path / "gsm.yaml").write_text(yaml.safe_dump(content))
    made = prepare(
        load_recipe(tmp_path / "gsm.yaml"),
        data_dir=tmp_path,
        vocab_size=512,
        block_tokens=256,
        workers=1,
        path=str(rows),
    )
    source = made.manifest["sources"]["text"]
    assert source["train"]["documents"] + source["val"]["documents"] > 1400
    assert 0.04 < source["val"]["bytes"] / source["train"]["bytes"] < 0.08
    names = [
        {made.document_name("text", split, i) for i in range(source[split]["documents"])}
        for split in ("train", "val")
    ]
    assert not names[0] & names[1]
