import math

import pytest

from plm.errors import ConfigError
from plm.reward.common import Example, check, score
from plm.reward.rule import rule
from plm.rounds.common import Answer


def example(turn: int, cut: bool = False) -> Example:
    return Example("Two and two?", cut=cut, answer=Answer("", turn, 0, 1, cut))


def test_later_is_better():
    found = score(rule, ["x"] * 4, [example(turn) for turn in range(4)])
    assert found == [0.0, 1 / 2, 2 / 3, 3 / 4]


def test_what_is_worthless_has_0_at_any_turn():
    texts = ["", "\n ", "Two and two?\n", "Two and two? Two and two?"]
    assert score(rule, texts, [example(3)] * 4) == [0.0] * 4
    assert rule("x", example(3, cut=True)) == 0.0
    assert rule("Two and two? 4", example(3)) == 0.75


def test_an_answer_of_no_chain_is_refused():
    with pytest.raises(ConfigError, match="reward=rule scores an answer by its turn, and these"):
        rule("x", Example("?"))


def test_a_reward_of_another_kind_is_asked_one_by_one_and_passed_through():
    values = {"a": 1, "b": math.nan, "c": math.inf}
    found = score(lambda text, example: values[text], ["a", "b", "c"], [Example("?")] * 3)
    assert found[0] == 1.0 and math.isnan(found[1]) and found[2] == math.inf
    check(lambda text, example: 0.0, graded=False)
