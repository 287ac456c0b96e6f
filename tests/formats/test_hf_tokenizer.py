"""A tokenizer in a Hugging Face folder: transformers finds the same ids in the same text."""

import json
from pathlib import Path

import pytest
from tokenizers import Tokenizer, normalizers
from transformers import AutoTokenizer, PreTrainedTokenizerFast

from plm.data import tokenizer as bpe
from plm.errors import ConfigError
from plm.formats.common import About
from plm.formats.hf_tokenizer import auto_tokenizer_differs, token_ids, write_tokenizer

SPECIAL = ["<|endoftext|>", "<|im_start|>", "<|im_end|>"]
TEXTS = [
    "Hello  world, it's 1234567 o'clock\n\n  x\ty",
    "a<|endoftext|>b <|im_end|> c<|im_start|>user\n",
    "日本語 naïve ﬁ 👩‍🚀 e\u0301",
    " . , ! n't 've",
    "",
]


def trained(pre_tokenizer: str, special: list[str] = SPECIAL) -> Tokenizer:
    texts = ["Hello world it's 1234 of the clock. " * 20, "def f(x): return x + 1\n" * 20]
    return bpe.train(texts, vocab_size=330, special_tokens=special, pre_tokenizer=pre_tokenizer)


def written(tokenizer: Tokenizer, kind: str, folder: Path, about: About | None = None) -> Path:
    folder.mkdir()
    (folder / "config.json").write_text(json.dumps({"model_type": kind}))
    write_tokenizer(tokenizer, folder, about or About(), 64)
    return folder


def check_ids(peer, tokenizer: Tokenizer, texts: list[str] = TEXTS) -> None:
    for text in texts:
        ids = tokenizer.encode(text).ids
        assert peer(text)["input_ids"] == ids, text
        assert peer.decode(ids) == tokenizer.decode(ids, skip_special_tokens=False), text


@pytest.mark.parametrize("kind", ["llama", "qwen3"])
@pytest.mark.parametrize("pre_tokenizer", list(bpe.PATTERNS))
def test_ids_are_those_of_auto_tokenizer(pre_tokenizer: str, kind: str, tmp_path: Path):
    tokenizer = trained(pre_tokenizer)
    peer = AutoTokenizer.from_pretrained(written(tokenizer, kind, tmp_path / "t"))
    check_ids(peer, tokenizer)
    assert peer.all_special_tokens == SPECIAL and peer.model_max_length == 64
    assert (peer.bos_token_id, peer.eos_token_id, peer.pad_token_id) == (0, 0, 0)
    assert peer.unk_token is None and len(peer) == bpe.size(tokenizer)
    assert peer.decode(tokenizer.encode(TEXTS[1]).ids, skip_special_tokens=True) == "ab  cuser\n"


@pytest.mark.parametrize("pre_tokenizer", list(bpe.PATTERNS))
def test_a_qwen2_folder_by_the_class_that_its_card_names(pre_tokenizer: str, tmp_path: Path):
    tokenizer = trained(pre_tokenizer)
    folder = written(tokenizer, "qwen2", tmp_path / "t")
    check_ids(PreTrainedTokenizerFast.from_pretrained(folder), tokenizer)
    assert auto_tokenizer_differs(tokenizer, "qwen2")
    assert not auto_tokenizer_differs(tokenizer, "llama")


def test_qwen2_s_own_way_to_split_is_safe_everywhere(tmp_path: Path):
    tokenizer = trained("qwen2")
    tokenizer.normalizer = normalizers.NFC()
    assert not auto_tokenizer_differs(tokenizer, "qwen2")
    check_ids(AutoTokenizer.from_pretrained(written(tokenizer, "qwen2", tmp_path / "t")), tokenizer)


def test_tokenizer_json_is_the_run_s_own(tmp_path: Path):
    bpe.save(trained("qwen2"), tmp_path / "tokenizer.json")
    folder = written(bpe.load(tmp_path / "tokenizer.json"), "llama", tmp_path / "t")
    there, here = (place / "tokenizer.json" for place in (tmp_path, folder))
    assert there.read_bytes() == here.read_bytes()


def test_the_end_of_text_may_be_any_special_token(tmp_path: Path):
    about, tokenizer = About(end_of_text="<|stop|>"), trained("gpt2", [*SPECIAL, "<|stop|>"])
    folder = written(tokenizer, "llama", tmp_path / "t", about)
    assert token_ids(tokenizer, about) == dict.fromkeys(
        ("bos_token_id", "eos_token_id", "pad_token_id"), 3
    )
    generation = json.loads((folder / "generation_config.json").read_text())
    assert generation == {"bos_token_id": 3, "eos_token_id": [3, 2], "pad_token_id": 3}
    assert AutoTokenizer.from_pretrained(folder).eos_token == "<|stop|>"


def test_without_marks_of_a_chat_there_is_no_template(tmp_path: Path):
    tokenizer = trained("gpt2", SPECIAL[:1])
    folder = written(tokenizer, "llama", tmp_path / "t")
    assert not (folder / "chat_template.jinja").exists()
    assert json.loads((folder / "generation_config.json").read_text())["eos_token_id"] == [0]


def test_no_tokenizer_means_no_ids():
    # transformers' own classes would take 1 and 2 where nothing is said.
    assert set(token_ids(None, About()).values()) == {None}


def test_a_missing_end_of_text_is_named(tmp_path: Path):
    with pytest.raises(ConfigError, match=r"no end-of-text token '<\|stop\|>'; it has"):
        written(trained("gpt2"), "llama", tmp_path / "t", About(end_of_text="<|stop|>"))
