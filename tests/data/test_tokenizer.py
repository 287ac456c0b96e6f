"""The tokenizer: nothing lost, digits apart, the fast twin equal to the slow one."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from tokenizers import AddedToken, Tokenizer, normalizers, pre_tokenizers, processors

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


@pytest.fixture(scope="module")
def families(trained):
    made = {"qwen2": trained}
    for name in ("gpt2", "llama3"):
        made[name] = bpe.train(
            TEXTS * 3, vocab_size=400, special_tokens=SPECIAL, pre_tokenizer=name
        )
    return made


def copy(tokenizer):
    return Tokenizer.from_str(tokenizer.to_str())


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


PIECES = {
    "qwen2": ["It", "'s", " ", "4", "2", "0", "0", ".", "5", " \n\n", " ", " x"],
    "gpt2": ["It", "'s", " 4200", ".", "5", " \n\n ", " x"],
    "llama3": ["It", "'s", " ", "420", "0", ".", "5", " \n\n", " ", " x"],
}


@pytest.mark.parametrize("name", bpe.PATTERNS)
def test_each_family_splits_in_its_own_way(families, name):
    found = families[name].pre_tokenizer.pre_tokenize_str("It's 4200.5 \n\n  x")
    # The byte-level alphabet's letters for a space and a newline.
    assert [piece.replace("Ġ", " ").replace("Ċ", "\n") for piece, _ in found] == PIECES[name]
    assert bpe.pre_tokenizer_name(families[name]) == name


def test_the_librarys_byte_level_is_gpt2(families):
    theirs = copy(families["gpt2"])
    theirs.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    assert bpe.pre_tokenizer_name(theirs) == "gpt2"
    for ours, slow in zip(
        bpe.Encoder(theirs).encode_batch(TEXTS),
        bpe.encode_batch(families["gpt2"], TEXTS),
        strict=True,
    ):
        np.testing.assert_array_equal(ours, slow)


def test_a_word_that_is_a_token_stays_whole_for_llama3(families):
    for name, tokenizer in families.items():
        assert tokenizer.model.ignore_merges == (name == "llama3")


ODD = st.lists(
    st.one_of(
        st.text(alphabet=[chr(i) for i in range(0x80)], max_size=4),
        st.text(max_size=3),
        st.sampled_from(
            [" ", "  ", "\t", "\n", "\r\n", " \n", "\x0b", "\x0c", "\x1c", "\x85", "\xa0", "\u2003"]
        ),
        st.from_regex(r"[0-9]{1,7}|[٠-٩½²]{1,3}", fullmatch=True),
        st.sampled_from(["'s", "'S", "'ll", "'LL", "'ve", "’s", "don't", "'ſ", "s'", "''d"]),
        st.sampled_from(["<|endoftext|>", "<|im_start|>", "naïve", "東京", "e\u0301", "🙂", "ǅ"]),
        st.sampled_from(
            ["def add(", "):\n    return", "word", " Word", "!?", "...\n", "_a_", "a1b"]
        ),
    ),
    max_size=12,
).map("".join)


@pytest.mark.parametrize("name", bpe.PATTERNS)
@given(texts=st.lists(ODD, max_size=4))
@settings(max_examples=150, deadline=None)
def test_fast_and_slow_are_equal_on_odd_text(families, name, texts):
    encoder = bpe.Encoder(families[name])
    assert encoder.fast
    slow = bpe.encode_batch(families[name], texts)
    for _ in range(2):
        for ours, theirs in zip(encoder.encode_batch(texts), slow, strict=True):
            np.testing.assert_array_equal(ours, theirs)
    for text, ids in zip(texts, slow, strict=True):
        assert families[name].decode(ids.tolist()) == text


def _normalised(t):
    t.normalizer = normalizers.Lowercase()


def _split_another_way(t):
    t.pre_tokenizer = pre_tokenizers.Sequence(
        [pre_tokenizers.Whitespace(), pre_tokenizers.ByteLevel(add_prefix_space=False)]
    )


def _prefixed(t):
    t.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=True)


def _doubled(t):
    t.post_processor = processors.TemplateProcessing(single="$A $A", special_tokens=[])


def _with_a_word_added(t):
    t.add_tokens([AddedToken("green bottles", special=False)])


@pytest.mark.parametrize(
    "change", [_normalised, _split_another_way, _prefixed, _doubled, _with_a_word_added]
)
def test_what_is_not_word_by_word_goes_the_librarys_way(trained, change):
    other = copy(trained)
    change(other)
    encoder = bpe.Encoder(other)
    assert not encoder.fast
    texts = [*TEXTS, "ten green bottles HANGING"]
    for ours, theirs in zip(
        encoder.encode_batch(texts), bpe.encode_batch(other, texts), strict=True
    ):
        np.testing.assert_array_equal(ours, theirs)


def test_a_template_that_only_adds_special_tokens_stays_fast(trained):
    other = copy(trained)
    other.post_processor = processors.Sequence(
        [
            processors.ByteLevel(trim_offsets=False),
            processors.TemplateProcessing(
                single="<|im_start|> $A", special_tokens=[("<|im_start|>", 1)]
            ),
        ]
    )
    encoder = bpe.Encoder(other)
    assert encoder.fast
    for ours, theirs in zip(
        encoder.encode_batch(TEXTS), bpe.encode_batch(other, TEXTS), strict=True
    ):
        np.testing.assert_array_equal(ours, theirs)


def test_an_id_past_the_vocabulary_asked_for_is_refused(trained):
    text = TEXTS[0]
    ids = bpe.Encoder(trained, 400).encode_batch([text])[0]
    largest = int(ids.max())
    assert bpe.Encoder(trained, largest + 1).encode_batch([text, ""])[0].max() == largest
    message = (
        rf"token {largest} \(.*\), but vocab_size={largest}; set vocab_size={bpe.size(trained)}"
    )
    with pytest.raises(DataError, match=message):
        bpe.Encoder(trained, largest).encode_batch(["", text])


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


def test_bytes_of_added_words_and_of_holes(trained):
    other = copy(trained)
    other.add_tokens([AddedToken("東京", special=False)])
    lengths = bpe.token_bytes(other)
    assert lengths[other.token_to_id("東京")] == 6
    assert lengths[: bpe.size(trained)].tolist() == bpe.token_bytes(trained).tolist()
