import random

import pytest
from tokenizers import Tokenizer, decoders, models, pre_tokenizers

from plm.data.tokenizer import END_OF_TEXT
from plm.rollout.text import GrowingText, Vocabulary
from tests.rollout.common import TEXT, tokenizer


@pytest.fixture(scope="module")
def vocabulary() -> Vocabulary:
    return Vocabulary(tokenizer())


def grown(vocabulary: Vocabulary, ids: list[int], stop: tuple[str, ...] = ()) -> list[str]:
    text = GrowingText(vocabulary, stop)
    said = []
    for token in ids:
        said.append(text.push(token))
        if text.stopped:
            break
    said.append(text.flush())
    assert "".join(said) == text.text
    return said


def test_the_pieces_are_the_whole_and_no_character_is_halved(vocabulary: Vocabulary):
    # Characters that the tokenizer has not seen, so that each is several ids.
    text = TEXT + "語🙃ж"
    said = grown(vocabulary, tokenizer().encode(text).ids)
    assert "".join(said) == text and not any("\ufffd" in piece for piece in said)
    assert sum(piece == "" for piece in said) > 3


def test_random_ids_come_out_as_in_a_decoding_at_once(vocabulary: Vocabulary):
    drawn = random.Random(0)
    for _ in range(200):
        ids = [drawn.randrange(310) for _ in range(drawn.randrange(30))]
        assert "".join(grown(vocabulary, ids)) == vocabulary.decode(ids)


def test_special_tokens_are_silent(vocabulary: Vocabulary):
    end = tokenizer().token_to_id(END_OF_TEXT)
    assert grown(vocabulary, [end, *tokenizer().encode("the").ids, end])[-2:] == ["", ""]


@pytest.mark.parametrize(
    ("text", "stop", "expected"),
    [
        ("the cat sat", ("cat",), "the "),
        ("the cat sat", ("sat", "cat"), "the "),
        ("the cat sat", ("cats", "nothing"), "the cat sat"),
        ("aab aaab", ("aaab",), "aab "),
        ("日本", ("本",), "日"),
        ("the cat sat", ("the cat sat",), ""),
    ],
)
def test_stop_strings(vocabulary: Vocabulary, text: str, stop: tuple[str, ...], expected: str):
    said = grown(vocabulary, tokenizer().encode(text).ids, stop)
    assert "".join(said) == expected


def test_what_may_become_a_stop_string_waits(vocabulary: Vocabulary):
    text = GrowingText(vocabulary, ("xyz!",))
    said = [text.push(token) for letter in "axyxyz" for token in tokenizer().encode(letter).ids]
    assert said == ["a", "", "", "xy", "", ""]
    assert text.flush() == "xyz"


def test_a_tokenizer_of_another_kind():
    vocab = {"▁the": 0, "▁cat": 1, "s": 2, "<0xE6>": 3, "<0x97>": 4, "<0xA5>": 5, "<unk>": 6}
    made = Tokenizer(models.BPE(vocab, [], unk_token="<unk>", byte_fallback=True))
    made.pre_tokenizer = pre_tokenizers.Metaspace()
    made.decoder = decoders.Sequence([decoders.ByteFallback(), decoders.Metaspace()])
    vocabulary = Vocabulary(made)
    assert not vocabulary.byte_level
    said = grown(vocabulary, [0, 1, 2, 3, 4, 5, 1])
    assert said == ["the", " cat", "s", "", "", "日", " cat", ""]
    assert grown(vocabulary, [0, 3, 4])[-1].startswith("\ufffd")
    assert grown(vocabulary, [0, 1, 2], ("cats",))[:3] == ["the", " ", ""]
