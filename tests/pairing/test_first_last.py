import math
from dataclasses import replace

import pytest

from plm.errors import ConfigError
from plm.pairing.first_last import first_last
from plm.reward.common import Example, score
from plm.reward.rule import rule
from tests.pairing.made import chain, check_account, reasons


def test_the_last_answer_of_each_chain_is_better_than_its_first():
    given = chain("a", "b", "c", scores=[0, 1, 1]) + chain("d", "e", scores=[0.2, 0.3], number=1)
    found = first_last(given)
    assert found.pairs == [(2, 0), (4, 3)] and found.unused == {"not chosen": 1}
    check_account(given, found)


def test_turns_and_chains_count_and_not_the_order():
    given = chain("a", "b", scores=[0, 1]) + chain("c", "d", scores=[0, 1], number=1)
    assert first_last([given[i] for i in (3, 1, 0, 2)]).pairs == [(1, 2), (0, 3)]


def test_by_the_rule_every_chain_whose_ends_differ_gives_a_pair():
    given = chain("a", "b", "c", "d", scores=[None] * 4) + chain("e", "e", scores=[None] * 2)
    given[4:] = [replace(answer, chain=1) for answer in given[4:]]
    examples = [Example("?", answer=answer) for answer in given]
    for answer, value in zip(given, score(rule, [a.text for a in given], examples), strict=True):
        answer.score = value
    assert first_last(given).pairs == [(3, 0)]


@pytest.mark.parametrize(
    ("texts", "scores", "reason"),
    [
        ("ab", [1, 0], "last answer scores below the first"),
        ("ab", [1, 1], "all right"),
        ("ab", [0, 0], "all wrong"),
        ("ab", [0.3, 0.3], "all scores equal"),
        ("ab", [0.3, 0.4], "difference below min_margin"),
        ("aba", [0, 1, 1], "last answer equal to the first"),
        ("a", [1], "one answer only"),
        (["a", "b", ""], [0, 0, 0], "first or last answer left out"),
        ("ab", [math.nan, 1], "first or last answer left out"),
        (["", " "], [0, 0], "no usable answer"),
        ("", [], "no answer"),
    ],
)
def test_each_reason_for_no_pair(texts, scores: list[float], reason: str):
    given = chain(*texts, scores=scores)
    found = first_last(given, min_margin=0.5)
    check_account(given, found)
    assert found.pairs == [] and reasons(found)[1] == reason


def test_exchanged_answers_exchange_the_pair():
    a, b = chain("a", "b", scores=[0, 1])
    assert first_last([a, b]).pairs == [(1, 0)]
    a, b = replace(a, turn=1, score=1), replace(b, turn=0, score=0)
    assert first_last([a, b]).pairs == [(0, 1)]


def test_a_cut_end_is_left_out_unless_it_is_allowed():
    given = chain("a", "b", "c", scores=[0, 1, 1])
    given[2].cut = True
    assert reasons(first_last(given)) == (
        {"cut at max_new_tokens": 1, "first or last answer left out": 2},
        "first or last answer left out",
    )
    assert first_last(given, drop_cut=False).pairs == [(2, 0)]


def test_chains_with_the_same_ends_give_one_pair():
    given = chain("a", "b", scores=[0, 1]) + chain("a ", "c", "b", scores=[0, 1, 1], number=1)
    found = first_last(given)
    assert found.pairs == [(1, 0)] and found.unused == {"not chosen": 3}


def test_the_prompts_reason_is_that_of_most_chains():
    falling = [chain("a", "b", scores=[1, 0], number=n) for n in (1, 2)]
    given = [*chain("c", "c", scores=[1, 1]), *falling[0], *falling[1]]
    assert reasons(first_last(given))[1] == "last answer scores below the first"


def test_settings_are_checked():
    with pytest.raises(ConfigError, match=r"pairing\.min_margin=-1"):
        first_last([], min_margin=-1)
