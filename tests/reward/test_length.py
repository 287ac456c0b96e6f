import pytest

from plm.errors import ConfigError
from plm.reward.common import Example
from plm.reward.length import length
from plm.rounds.common import Answer

RANGE = {"least": 4, "most": 8, "ramp": 4}


def example(tokens: int | None, cut: bool = False) -> Example:
    answer = None if tokens is None else Answer("", 0, 0, tokens, cut)
    return Example("Why?", cut=cut, answer=answer)


@pytest.mark.parametrize(
    ("size", "wanted"),
    [(1, 0.25), (3, 0.75), (4, 1), (8, 1), (9, 0.75), (11, 0.25), (12, 0), (10**6, 0)],
)
def test_in_and_outside_the_range(size: int, wanted: float):
    assert length("because", example(size), **RANGE) == wanted
    assert length("x" * size, example(None), **RANGE) == wanted


def test_without_a_ramp_it_is_all_or_nothing():
    found = [length("x" * n, example(None), least=2, most=3, ramp=0) for n in (1, 2, 3, 4)]
    assert found == [0, 1, 1, 0]


def test_the_unit_can_be_named():
    assert length("x" * 8, example(100), unit="characters", **RANGE) == 1
    assert length("x" * 8, example(100), unit="tokens", **RANGE) == 0
    with pytest.raises(ConfigError, match=r"reward\.unit=tokens: these completions come without"):
        length("x", example(None), unit="tokens")


def test_what_is_worthless_has_0_at_any_length():
    texts = [("", False), ("  \n  ", False), ("Why?Why?", False), ("because", True)]
    assert [length(text, example(5, cut), **RANGE) for text, cut in texts] == [0] * 4


@pytest.mark.parametrize("bad", [{"least": 9}, {"least": -1}, {"ramp": -1}, {"unit": "words"}])
def test_settings_that_cannot_be(bad: dict):
    with pytest.raises(ConfigError, match="take 0 <= least <= most, ramp >= 0 and as unit null"):
        length("x", example(1), **{**RANGE, **bad})
    with pytest.raises(ConfigError, match=r"reward\.most=8\.5 is not a whole number"):
        length("x", example(1), most=8.5)
