"""The tokenizer: nothing lost, digits apart, the fast twin equal to the slow one."""

import numpy as np
import pytest

from plm.data import tokenizer as bpe
from plm.errors import ConfigError, DataError

SPECIAL = ["<|endoftext|>", "<|im_start|>", "<|im_end|>"]
TEXTS = [
    "def add(a, b):\n    return a + b\n\n\nprint(add(12, 34567))\n",
    "It's the dog's 2nd day; they'll SHOUT: DON'T!\r\n\r\n  indented\t\ttabs   \n",
    "naïve café — 東京 × 3² ½ ٣ \u2028 x\u00a0y\u0085z\x1c\x1d\n",
    "",
    "   ",
    "a<|endoftext|>b <|im_start|>user",
]


@pytest.fixture(scope="module")
def trained():
    return bpe.train(TEXTS * 3, vocab_size=400, special_tokens=SPECIAL)


def test_special_tokens_come_first_and_bytes_are_complete(trained):
    assert [trained.token_to_id(token) for token in SPECIAL] == [0, 1, 2]
    every = "".join(chr(i) for i in range(0x250)) + "\U0001f600"
    (ids,) = bpe.encode_batch(trained, [every])
    assert trained.decode(ids.tolist(), skip_special_tokens=False) == every


def test_text_comes_back_without_special_tokens(trained):
    for text, ids in zip(TEXTS, bpe.encode_batch(trained, TEXTS), strict=True):
        assert ids.dtype == np.int32
        assert not set(ids.tolist()) & {0, 1, 2}
        assert trained.decode(ids.tolist()) == text


def test_digits_stand_alone(trained):
    (ids,) = bpe.encode_batch(trained, ["34567"])
    assert [trained.decode([i]) for i in ids] == list("34567")


def test_no_normaliser(trained):
    assert trained.normalizer is None
    (ids,) = bpe.encode_batch(trained, ["e\u0301"])
    assert trained.decode(ids.tolist()) == "e\u0301"


def test_fast_twin_is_equal(trained):
    rng = np.random.default_rng(0)
    letters = [chr(i) for i in range(0x20, 0x7F)] + [
        "\n",
        "\t",
        "\r\n",
        "  ",
        "'s",
        "'LL",
        "é",
        "\x1f",
    ]
    texts = TEXTS + ["".join(rng.choice(letters, size=40)) for _ in range(400)]
    encoder = bpe.Encoder(trained)
    for _ in range(2):
        fast = encoder.encode_batch(texts)
        slow = bpe.encode_batch(trained, texts)
        for ours, theirs in zip(fast, slow, strict=True):
            np.testing.assert_array_equal(ours, theirs)


def test_the_same_text_gives_the_same_tokenizer():
    made = [bpe.train(TEXTS, vocab_size=350, special_tokens=SPECIAL).to_str() for _ in range(2)]
    assert made[0] == made[1]


def test_bytes_of_each_id(trained):
    lengths = bpe.token_bytes(trained, 500)
    assert lengths.dtype == np.int32
    assert lengths.shape == (500,)
    assert lengths[:3].tolist() == [0, 0, 0]
    for text, ids in zip(TEXTS, bpe.encode_batch(trained, TEXTS), strict=True):
        assert lengths[ids].sum() == len(text.encode())


def test_a_vocabulary_too_small_is_refused():
    with pytest.raises(ConfigError, match="vocab_size=258 is too small: 256 bytes and 3"):
        bpe.train(TEXTS, vocab_size=258, special_tokens=SPECIAL)


def test_save_and_load(trained, tmp_path):
    bpe.save(trained, tmp_path / "tokenizer.json")
    assert bpe.load(tmp_path / "tokenizer.json").to_str() == trained.to_str()
    with pytest.raises(DataError, match="no such tokenizer file"):
        bpe.load(tmp_path / "none.json")
    (tmp_path / "bad.json").write_text("{")
    with pytest.raises(DataError, match=r"bad\.json: not a tokenizer\.json"):
        bpe.load(tmp_path / "bad.json")


def test_sample_follows_the_weights():
    assert bpe.sample({"a": 1000, "b": 10}, {"a": 3, "b": 1}, 100) == {"a": 75, "b": 10}
    assert list(bpe.cut(["abc", "defg", "h"], 5)) == ["abc", "de"]
    with pytest.raises(ConfigError, match="tokenizer_weight is 0 in every source"):
        bpe.sample({"a": 1}, {"a": 0}, 10)
