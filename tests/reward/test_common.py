"""A guarded reward gives a number from 0 to 1 whatever becomes of it."""

import logging
import math

import pytest

from plm.errors import ConfigError
from plm.evaluation.generated import Item
from plm.evaluation.gsm8k import grade
from plm.reward.common import Example, Guarded, check, score
from plm.reward.verifier import verifier

GIVEN = {"good": 0.5, "NaN": math.nan, "more": 1.5, "less": -0.1, "endless": math.inf}


def moody(text: str, example: Example) -> float:
    return GIVEN[text]


def test_failures_count_as_0_and_are_said_once_a_kind(caplog: pytest.LogCaptureFixture):
    caplog.set_level(logging.WARNING, "plm")
    guarded = Guarded(moody, "reward=moody")
    texts = ["good", "missing", "NaN", "more", "less", "endless", "NaN", "good", "absent"]
    found = score(guarded, texts, [Example("?")] * len(texts))
    assert found == [0.5, 0, 0, 0, 0, 0, 0, 0.5, 0]
    assert guarded.failures == {"raised": 2, "NaN": 2, "outside": 3}
    said = [record.getMessage() for record in caplog.records]
    start = "reward=moody failed on a completion, which counts as 0; said once: "
    assert said == [
        f"{start}KeyError: 'missing'",
        f"{start}it gave NaN",
        f"{start}it gave 1.5, and a reward lies in [0, 1]",
    ]


def test_one_that_fails_does_not_take_the_others_along():
    def many(texts, examples):
        assert "bad" not in texts
        return [1.0] * len(texts)

    def one(text, example):
        return many([text], [example])[0]

    one.many = many
    guarded = Guarded(one)
    assert score(guarded, ["a", "bad", "b"], [Example("?")] * 3) == [1, 0, 1]
    assert guarded("bad", Example("?")) == 0 and guarded.failures["raised"] == 2


class OutOfMemoryError(RuntimeError):
    """As torch names its own."""


@pytest.mark.parametrize("error", [ConfigError("no"), MemoryError(), OutOfMemoryError()])
def test_what_is_not_the_completion_s_fault_is_raised(error: Exception):
    def fails(text, example):
        raise error

    with pytest.raises(type(error)):
        Guarded(fails)("x", Example("?"))


def test_a_good_reward_is_what_it_was():
    guarded, item = Guarded(verifier), Item("a", "2 + 2?", "", "4")
    example = Example(item.question, item, grade=grade)
    assert score(guarded, ["Answer: 4", "Answer: 5"], [example] * 2) == [1, 0]
    assert not guarded.failures
    check(guarded, graded=True)
    with pytest.raises(ConfigError, match="the prompts come from no task that grades answers"):
        check(guarded, graded=False)
    guarded.close()


def test_its_own_check_and_close_are_asked():
    class Own:
        asked = ""

        def __call__(self, text: str, example: Example) -> float:
            return 0.0

        def check(self) -> None:
            self.asked += "check "

        def close(self) -> None:
            self.asked += "close"

    own = Own()
    guarded = Guarded(own)
    check(guarded, graded=False)
    guarded.close()
    assert own.asked == "check close"
