import pytest

from plm.errors import ConfigError
from plm.reward.common import Example
from plm.reward.overlong import overlong
from plm.rounds.common import Answer


def example(tokens: int, cut: bool = False) -> Example:
    return Example("Why?", cut=cut, answer=Answer("", 0, 0, tokens, cut))


@pytest.mark.parametrize("size", [1, 11, 12, 13, 14, 16, 17, 1000])
def test_it_is_the_paper_s_punishment_plus_1(size: int):
    # Equation 13: 0, then ((Lmax - Lcache) - |y|) / Lcache, then -1.
    paper = 0.0 if size <= 16 - 4 else ((16 - 4) - size) / 4 if size <= 16 else -1.0
    assert overlong("because", example(size), longest=16, cache=4) == 1 + paper


def test_what_is_worthless_has_0_at_any_length():
    texts = [("", False), ("Why?\n", False), ("because", True)]
    assert [overlong(text, example(2, cut)) for text, cut in texts] == [0] * 3


@pytest.mark.parametrize("bad", [{"cache": 0}, {"cache": 300}, {"unit": "words"}])
def test_settings_that_cannot_be(bad: dict):
    with pytest.raises(ConfigError, match="take 0 < cache <= longest and as unit null"):
        overlong("x", example(1), **bad)
    with pytest.raises(ConfigError, match=r"reward\.cache=1\.5 is not a whole number"):
        overlong("x", example(1), cache=1.5)
