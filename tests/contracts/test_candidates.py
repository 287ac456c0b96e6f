"""What every choice of configs/candidates must hold."""

from pathlib import Path

import pytest
from omegaconf import OmegaConf

from plm.config import build
from plm.errors import ConfigError
from plm.rounds.common import Sampled
from tests.candidates.common import QUESTIONS, SEEDS, TEMPLATE, subject

CHOICES = sorted((Path(__file__).parents[2] / "configs/candidates").glob("*.yaml"))


@pytest.fixture(params=CHOICES, ids=lambda path: path.stem)
def candidates(request):
    return build({**OmegaConf.to_container(OmegaConf.load(request.param)), "max_new_tokens": 6})


def test_there_are_choices():
    assert CHOICES


def test_every_question_has_its_answers_in_order(candidates):
    found = candidates(subject(), QUESTIONS, TEMPLATE, SEEDS)
    assert len(found) == len(QUESTIONS)
    for answers in found:
        assert [a for chain in Sampled(0, "", "", answers=answers).chains() for a in chain] == (
            answers
        )
        assert {a.chain for a in answers if a.turn == 0} == set(range(1 + answers[-1].chain))
        for answer in answers:
            assert 1 <= answer.tokens <= 6 and answer.score is None
            assert (answer.shown is None) == (answer.turn == 0)
            if answer.turn:
                shown = answers[answer.shown]
                assert (shown.chain, shown.turn) == (answer.chain, answer.turn - 1)


def test_the_rest_of_a_call_changes_nothing(candidates):
    whole = candidates(subject(), QUESTIONS, TEMPLATE, SEEDS)
    last = candidates(subject(), QUESTIONS[-1:], TEMPLATE, SEEDS[-1:])
    assert whole[-1:] == last and whole[0] != last[0]


def test_without_room_there_are_no_answers(candidates):
    full = subject(max_len=len(subject().prompt(*["one"] * 2)))
    assert candidates(full, ["one"], TEMPLATE, [1]) == [[]]


def test_one_likeliest_answer_a_question(candidates):
    with pytest.raises(ConfigError, match="would be one answer so many times"):
        candidates(subject(), ["one"], TEMPLATE, [1], answers=2, temperature=0)
    first, again = (
        candidates(subject(), ["one"], TEMPLATE, [seed], answers=1, temperature=0)[0]
        for seed in (1, 2)
    )
    assert first == again
