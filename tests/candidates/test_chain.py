"""Chains equal the engine asked by hand, and each knows no other."""

import pytest

from plm.candidates.chain import chain
from plm.candidates.independent import independent
from plm.errors import ConfigError
from plm.rollout.sampling import Sampling
from plm.rounds.template import Template
from tests.candidates.common import QUESTIONS, SEEDS, TEMPLATE, subject


def _said(own, text, number):
    (done,) = own.engine.generate([own.prompt(text, text)], Sampling(max_new_tokens=number))
    return done


def test_a_greedy_chain_equals_the_engine_asked_by_hand():
    own = subject()
    found = chain(own, QUESTIONS, TEMPLATE, SEEDS, turns=2, temperature=0.0, max_new_tokens=5)
    for question, answers in zip(QUESTIONS, found, strict=True):
        text = question
        for turn, answer in enumerate(answers):
            done = _said(own, text, 5)
            assert answer.text == done.text
            assert (answer.tokens, answer.cut) == (len(done.tokens), done.finish == "length")
            assert (answer.turn, answer.chain, answer.score) == (turn, 0, None)
            text = f"{question}?{done.text}!"
        assert len(answers) == 3
    assert len({answer.text for answers in found for answer in answers}) > 6


def test_what_is_shown_lies_before_in_the_same_chain():
    (answers,) = chain(subject(), ["one"], TEMPLATE, [3], answers=3, turns=2, max_new_tokens=4)
    assert [(a.chain, a.turn, a.shown) for a in answers] == [
        *((0, 0, None), (0, 1, 0), (0, 2, 1)),
        *((1, 0, None), (1, 1, 3), (1, 2, 4)),
        *((2, 0, None), (2, 1, 6), (2, 2, 7)),
    ]


def test_the_rest_of_a_call_changes_nothing():
    own = subject()
    settings = {"answers": 2, "turns": 2, "max_new_tokens": 6}
    whole = chain(own, QUESTIONS, TEMPLATE, SEEDS, **settings)
    alone = [
        chain(own, [question], TEMPLATE, [seed], **settings)[0]
        for question, seed in zip(QUESTIONS, SEEDS, strict=True)
    ]
    turned = chain(own, QUESTIONS[::-1], TEMPLATE, SEEDS[::-1], **settings)
    assert whole == alone == turned[::-1]
    assert len({answer.text for answers in whole for answer in answers}) > 20


def test_more_turns_or_chains_leave_the_others_as_they_are():
    own = subject()
    few = chain(own, ["one"], TEMPLATE, [5], answers=1, turns=1, max_new_tokens=6)[0]
    many = chain(own, ["one"], TEMPLATE, [5], answers=3, turns=3, max_new_tokens=6)[0]
    assert many[:2] == few and len(many) == 12


def test_other_seeds_draw_others():
    own = subject()
    first, again, other = (
        chain(own, ["one"], TEMPLATE, [seed], max_new_tokens=8)[0] for seed in (1, 1, 2)
    )
    assert first == again != other
    assert first[0].text != other[0].text and first[1].text != other[1].text


def test_chains_of_one_answer_go_on_apart():
    # All chains are shown the same words, so that only their seeds tell them apart.
    (answers,) = chain(subject(), ["one"], _Blind(), [7], answers=4, turns=1, max_new_tokens=8)
    refined = [answer.text for answer in answers if answer.turn == 1]
    assert len(set(refined)) == 4


class _Blind(Template):
    """Shows nothing of the answer."""

    def __init__(self):
        super().__init__("{question} {answer}")

    def render(self, question, answer):
        return question


def test_a_chain_ends_where_the_shown_answer_leaves_no_room():
    own = subject()
    length = len(own.prompt(*["a b"] * 2))
    # The template's two marks and at least one token of the answer: too long for turn 1.
    tight = subject(max_len=length + 2)
    answers, none, wide = chain(
        tight, ["a b", "a b c d e f g h i", ""], TEMPLATE, [1, 2, 3], turns=2, max_new_tokens=50
    )
    assert [a.turn for a in answers] == [0] and answers[0].tokens <= 2
    assert none == []
    assert wide[0].turn == 0 and all(a.tokens <= 50 for a in wide)


def test_less_room_shortens_and_changes_no_draw():
    own = subject()
    length = len(own.prompt(*["one"] * 2))
    settings = {"turns": 0, "max_new_tokens": 20}
    (full,) = chain(own, ["one"], TEMPLATE, [4], **settings)[0]
    (cut,) = chain(subject(max_len=length + 6), ["one"], TEMPLATE, [4], **settings)[0]
    assert full.tokens == 20 and cut.tokens == 6 and cut.cut
    assert full.text.startswith(cut.text.rstrip("\ufffd")) and cut.text


def test_no_turns_are_independent_answers():
    settings = {"answers": 3, "max_new_tokens": 5}
    first = chain(subject(), QUESTIONS, TEMPLATE, SEEDS, turns=0, **settings)
    assert first == independent(subject(), QUESTIONS, TEMPLATE, SEEDS, **settings)


def test_no_questions_give_nothing():
    assert chain(subject(), [], TEMPLATE, []) == []


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"answers": 0}, "candidates.answers=0 must be a whole number from 1 on"),
        ({"answers": True}, "candidates.answers=True must be a whole number"),
        ({"turns": -1}, "candidates.turns=-1 must be a whole number from 0 on"),
        ({"max_new_tokens": 1.5}, "candidates.max_new_tokens=1.5 must be a whole number from 1 on"),
        ({"temperature": -1.0}, "temperature=-1.0 cannot be"),
        (
            {"answers": 2, "temperature": 0},
            "candidates.answers=2 at candidates.temperature=0 would be one answer so many times",
        ),
    ],
)
def test_numbers_that_give_nothing(settings, message):
    with pytest.raises(ConfigError, match=message):
        chain(subject(), ["one"], TEMPLATE, [1], **settings)
