"""Existing tokenizers: taken over as they are, extended, or refused with a reason."""

import logging

import numpy as np
import pytest
from tokenizers import Tokenizer, normalizers, pre_tokenizers

from plm.data import adopt
from plm.data import tokenizer as bpe
from plm.data.recipe import TokenizerSettings
from plm.errors import ConfigError, DataError, Unfinished

SPECIAL = ["<|endoftext|>", "<|im_start|>", "<|im_end|>"]
TEXTS = [
    "def add(a, b):\n    return a + b\n\n\nprint(add(12, 34567))\n",
    "naïve café — 東京 × 3² ½ ٣ \u2028 x\u00a0y\u0085z\x1c\x1d\n",
    "a<|endoftext|>b <|im_start|>user",
]


@pytest.fixture(scope="module")
def trained():
    return bpe.train(TEXTS * 3, vocab_size=400, special_tokens=SPECIAL)


def copy(tokenizer):
    return Tokenizer.from_str(tokenizer.to_str())


def test_new_tokens_come_behind_the_others(trained, tmp_path):
    bpe.save(trained, tmp_path / "theirs.json")
    new = ["<tool>", "<|im_end|>", "</tool>"]
    chosen = TokenizerSettings(file=str(tmp_path / "theirs.json"), new_tokens=new)
    target = tmp_path / "tokenizer.json"
    assert adopt.adopt(chosen, target) == bpe.size(trained) + 2
    made = bpe.load(target)
    assert made.encode("a<tool>b</tool>").ids == [
        *trained.encode("a").ids, bpe.size(trained),
        *trained.encode("b").ids, bpe.size(trained) + 1,
    ]  # fmt: skip
    for ours, theirs in zip(
        bpe.encode_batch(made, TEXTS), bpe.encode_batch(trained, TEXTS), strict=True
    ):
        np.testing.assert_array_equal(ours, theirs)
    with pytest.raises(ConfigError, match=r"tokenizer\.new_tokens: a is an ordinary token already"):
        adopt.extend(copy(trained), ["a"])


def test_adopt_a_file(trained, tmp_path):
    other = copy(trained)
    other.enable_truncation(4)
    other.enable_padding(length=9)
    bpe.save(other, tmp_path / "theirs.json")
    chosen = TokenizerSettings(file=str(tmp_path / "theirs.json"), end_of_text="<|im_end|>")
    target = tmp_path / "tokenizer.json"
    assert adopt.adopt(chosen, target) == bpe.size(trained)
    made = bpe.load(target)
    # Neither the cut nor the filling comes along.
    assert made.to_str() == trained.to_str()
    assert bpe.end_of_text(chosen, made) == "<|im_end|>"
    assert bpe.end_of_text(TokenizerSettings(file=chosen.file), made) == "<|endoftext|>"
    assert len(chosen.content_mark()) == 64
    assert TokenizerSettings().content_mark() is None


def test_adopt_from_a_folder_of_the_hubs_form(trained, tmp_path):
    from transformers import PreTrainedTokenizerFast

    wrapped = PreTrainedTokenizerFast(tokenizer_object=copy(trained), eos_token="<|endoftext|>")
    wrapped.save_pretrained(tmp_path / "theirs")
    chosen = TokenizerSettings(hub=str(tmp_path / "theirs"), revision="main")
    assert adopt.adopt(chosen, tmp_path / "tokenizer.json", 400) == bpe.size(trained)
    made = bpe.load(tmp_path / "tokenizer.json")
    assert made.get_vocab() == trained.get_vocab()
    assert bpe.Encoder(made).fast
    for ours, theirs in zip(
        bpe.encode_batch(made, TEXTS), bpe.encode_batch(trained, TEXTS), strict=True
    ):
        np.testing.assert_array_equal(ours, theirs)
    assert len(chosen.content_mark()) == 64
    nothing = TokenizerSettings(hub=str(tmp_path / "none"), revision="main")
    with pytest.raises(
        Unfinished, match=r"tokenizer\.hub=.*none \(revision main\) cannot be loaded"
    ):
        adopt.adopt(nothing, tmp_path / "other.json")
    assert not (tmp_path / "other.json").exists()


def test_a_normaliser_is_warned_about(trained, tmp_path, caplog):
    other = copy(trained)
    other.normalizer = normalizers.NFC()
    bpe.save(other, tmp_path / "theirs.json")
    chosen = TokenizerSettings(file=str(tmp_path / "theirs.json"))
    with caplog.at_level(logging.WARNING, "plm"):
        adopt.adopt(chosen, tmp_path / "tokenizer.json")
    assert "theirs.json has a normaliser (NFC): text may come back changed" in caplog.text
    assert bpe.load(tmp_path / "tokenizer.json").normalizer is not None


def _not_byte_level(t):
    t.pre_tokenizer = pre_tokenizers.Whitespace()


def _by_chance(t):
    t.model.dropout = 0.1


@pytest.mark.parametrize(
    ("change", "more", "error", "message"),
    [
        (_not_byte_level, {}, DataError, r"theirs\.json: not a byte-level BPE with all 256 bytes"),
        (_by_chance, {}, DataError, r"theirs\.json: dropout=0\.1"),
        (
            lambda t: None,
            {"end_of_text": "</s>"},
            ConfigError,
            r"tokenizer\.end_of_text=</s> is not in .*theirs\.json; its special tokens: <\|endoft",
        ),
        (
            lambda t: None,
            {"end_of_text": "a"},
            ConfigError,
            r"tokenizer\.end_of_text=a is an ordinary token of .*theirs\.json",
        ),
    ],
)
def test_what_cannot_be_adopted(trained, tmp_path, change, more, error, message):
    other = copy(trained)
    change(other)
    bpe.save(other, tmp_path / "theirs.json")
    chosen = TokenizerSettings(file=str(tmp_path / "theirs.json"), **more)
    with pytest.raises(error, match=message) as caught:
        adopt.adopt(chosen, tmp_path / "tokenizer.json")
    assert "\n" not in str(caught.value)
    assert not (tmp_path / "tokenizer.json").exists()


def test_a_vocabulary_that_is_too_small_or_has_no_special_token(trained, tmp_path):
    bpe.save(trained, tmp_path / "theirs.json")
    chosen = TokenizerSettings(file=str(tmp_path / "theirs.json"))
    rows = bpe.size(trained)
    message = (
        rf"vocab_size=300 is too small: .*theirs\.json has {rows} ids; a new model takes "
        rf"vocab_size={rows} or more, and one that a run begins from .*: data\.tokenizer=init_from"
    )
    with pytest.raises(ConfigError, match=message):
        adopt.adopt(chosen, tmp_path / "tokenizer.json", 300)
    bpe.save(bpe.train(TEXTS, vocab_size=300, special_tokens=[]), tmp_path / "theirs.json")
    with pytest.raises(ConfigError, match=r"has no special token; tokenizer\.end_of_text must"):
        adopt.adopt(chosen, tmp_path / "tokenizer.json")
