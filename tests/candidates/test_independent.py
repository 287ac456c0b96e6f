"""Independent answers are the engine's group, and nothing else."""

import pytest

from plm.candidates.independent import independent
from plm.errors import ConfigError
from plm.rollout.sampling import Sampling
from tests.candidates.common import QUESTIONS, SEEDS, TEMPLATE, subject


def test_they_equal_the_engine_asked_by_hand():
    own = subject()
    found = independent(own, QUESTIONS, TEMPLATE, SEEDS, answers=3, top_p=0.9, max_new_tokens=6)
    sampling = Sampling(max_new_tokens=6, temperature=1.0, top_p=0.9)
    for question, seed, answers in zip(QUESTIONS, SEEDS, found, strict=True):
        prompt = own.prompt(question, question)
        done = own.engine.generate([prompt], sampling, group=3, seeds=[seed])
        assert [a.text for a in answers] == [one.text for one in done]
        assert [a.tokens for a in answers] == [len(one.tokens) for one in done]
        assert [(a.turn, a.chain, a.shown) for a in answers] == [(0, n, None) for n in range(3)]
    assert len({a.text for answers in found for a in answers}) == 12


def test_more_answers_begin_with_the_fewer():
    few, many = (
        independent(subject(), ["one"], TEMPLATE, [9], answers=count, max_new_tokens=6)[0]
        for count in (2, 5)
    )
    assert many[:2] == few and len(many) == 5


def test_a_question_without_room_has_no_answers():
    tight = subject(max_len=len(subject().prompt(*["two"] * 2)) + 1)
    short, long = independent(tight, ["two", "two and more"], TEMPLATE, [1, 2], max_new_tokens=9)
    assert [(a.tokens, a.chain) for a in short] == [(1, 0), (1, 1)] and long == []


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"answers": 0}, "candidates.answers=0 must be a whole number from 1 on"),
        ({"max_new_tokens": 0}, "candidates.max_new_tokens=0 must be a whole number from 1 on"),
        ({"temperature": 0.0}, "candidates.answers=2 at candidates.temperature=0 would be one"),
        ({"top_p": 0.0}, "top_p=0.0 cannot be"),
    ],
)
def test_numbers_that_give_nothing(settings, message):
    with pytest.raises(ConfigError, match=message):
        independent(subject(), ["one"], TEMPLATE, [1], **settings)
