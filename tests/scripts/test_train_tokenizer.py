"""The command line that trains a tokenizer: its table, its folder, its one-line errors."""

import importlib.util
import json
import os
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]


@pytest.fixture(scope="module")
def script():
    file = ROOT / "scripts/train_tokenizer.py"
    spec = importlib.util.spec_from_file_location("train_tokenizer", file)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.fixture
def book(tmp_path):
    file = tmp_path / "book.txt"
    file.write_text("".join(f"{i} grüne Flaschen hanging on the wall\n" for i in range(900)))
    return file


def arguments(book, out, *more):
    return ["recipe=text", f"path={book}", f"out={out}", "vocab_size=330", "workers=1", *more]


def test_the_folder_opens_in_transformers(script, book, tmp_path, capsys):
    from transformers import AutoTokenizer

    assert script.main(arguments(book, tmp_path / "a/made", "pre_tokenizer=llama3")) == 0
    out = capsys.readouterr().out
    assert "tokens/word" in out and "330 ids, llama3" in out
    assert os.listdir(tmp_path / "a") == ["made"]
    assert sorted(os.listdir(tmp_path / "a/made")) == ["tokenizer.json", "tokenizer_config.json"]
    theirs = AutoTokenizer.from_pretrained(tmp_path / "a/made")
    text = "1234 grüne Flaschen"
    assert theirs.decode(theirs.encode(text)) == text
    assert theirs.eos_token == "<|endoftext|>" and theirs.pad_token_id == 0
    turns = [{"role": "user", "content": "How many?"}]
    chat = theirs.apply_chat_template(turns, tokenize=False, add_generation_prompt=True)
    assert chat == "<|im_start|>user\nHow many?<|im_end|>\n<|im_start|>assistant\n"


def test_it_is_the_tokenizer_that_a_preparation_trains(script, book, tmp_path):
    from plm.data.prepare import prepare
    from plm.data.recipe import load_recipe

    sizes = {"vocab_size": 330, "block_tokens": 2, "workers": 1}
    made = prepare(load_recipe("text"), data_dir=tmp_path / "data", path=str(book), **sizes)
    assert script.main(arguments(book, tmp_path / "made")) == 0
    ours = (tmp_path / "made/tokenizer.json").read_bytes()
    assert ours == made.tokenizer_path.read_bytes()


def test_compared_with_another_and_its_own_special_tokens(script, book, tmp_path, capsys):
    assert script.main(arguments(book, tmp_path / "one", "special_tokens=[<|end|>]")) == 0
    config = json.loads((tmp_path / "one/tokenizer_config.json").read_text())
    assert config["eos_token"] == "<|end|>" and "chat_template" not in config
    capsys.readouterr()
    other = f"compare={tmp_path / 'one/tokenizer.json'}"
    assert script.main(arguments(book, tmp_path / "two", other, "sample_bytes=500")) == 0
    rows = capsys.readouterr().out.splitlines()
    assert rows[1].split()[3:5] == ["this", "one"] and "one/tokenizer.json" in rows[2]
    # Documents and bytes are the same text's.
    assert rows[1].split()[:3] == rows[2].split()[:3]
    assert "the text gave no more, vocab_size=330 was asked for" in rows[-1]


def test_help(script, capsys):
    assert script.main(["--help"]) == 0
    out = capsys.readouterr().out
    assert all(f"    {key} " in out for key in script.DEFAULTS)


@pytest.mark.parametrize(
    ("more", "message"),
    [
        (["vocab=3"], "unknown setting 'vocab=3'; did you mean vocab_size=…?"),
        (["vocab_size=many"], "vocab_size=many is not a whole number"),
        (
            ["vocab_size=200"],
            "vocab_size=200 is too small: 256 bytes and 3 special tokens need 259",
        ),
        (["pre_tokenizer=gpt3"], "tokenizer.pre_tokenizer=gpt3: one of qwen2, gpt2, llama3"),
        (["special_tokens=[]"], "tokenizer.special_tokens is empty"),
        (["special_tokens=[a,a]"], "tokenizer.special_tokens names a token twice"),
        (["end_of_text=</s>"], "tokenizer.end_of_text=</s> is not in tokenizer.special_tokens"),
        (["sample_bytes=0"], "tokenizer.sample_bytes=0 is not a positive whole number"),
        (["recipe=nothing"], "recipe=nothing: no such file"),
        (["compare=/no/such/folder"], "cannot be loaded"),
        (["path=/no/such/file"], "/no/such/file"),
    ],
)
def test_one_line_and_nothing_half_written(script, book, tmp_path, more, message, capsys):
    assert script.main(arguments(book, tmp_path / "sub/made", *more)) == 2
    error = capsys.readouterr().err
    assert message in error
    assert error.count("\n") == 1
    assert not list(tmp_path.glob("sub/*")) and not list(tmp_path.glob("sub/.*"))


def test_a_folder_that_is_there_is_left_alone(script, book, tmp_path, capsys):
    (tmp_path / "made").mkdir()
    (tmp_path / "made/mine").write_text("kept")
    assert script.main(arguments(book, tmp_path / "made")) == 2
    assert "made is there already; delete it or choose another folder" in capsys.readouterr().err
    assert os.listdir(tmp_path / "made") == ["mine"]
    assert script.main(["recipe=text"]) == 2
    assert "out=<folder> is missing" in capsys.readouterr().err
