"""Which answers may be in a pair, and the settings that all pairings check."""

import math
from dataclasses import replace

import pytest

from plm.errors import ConfigError
from plm.pairing.best_worst import best_worst
from plm.pairing.common import apart, check, usable
from tests.pairing.made import answers, check_account, reasons


def test_each_reason_to_leave_an_answer_out():
    texts = ["a", "", " \n\t", "b", "c", "d", "e", " a\n", "f"]
    given = answers(1, 1, 1, None, math.nan, math.inf, 1, 0, 0, texts=texts)
    given[6] = replace(given[6], cut=True)
    found, left_out = usable(given)
    assert found == [0, 8]
    assert left_out == {
        "empty answer": 2,
        "no score": 3,
        "cut at max_new_tokens": 1,
        "equal to another answer": 1,
    }
    assert usable(given, drop_cut=False)[0] == [0, 6, 8]
    assert usable(given, scored=False)[0] == [0, 3, 4, 5, 8]
    assert usable(given, distinct=False)[0] == [0, 7, 8]


def test_an_answer_that_is_left_out_does_not_stand_for_one_equal_to_it():
    given = answers(math.nan, 1.0, 0.0, texts=["a", "a", "b"])
    assert usable(given) == ([1, 2], {"no score": 1})


def test_an_answer_has_one_reason_only():
    given = answers(math.nan, math.nan, texts=["", "a"])
    given = [replace(answer, cut=True) for answer in given]
    assert usable(given) == ([], {"empty answer": 1, "cut at max_new_tokens": 1})


@pytest.mark.parametrize(
    ("scores", "texts", "reason", "unused"),
    [
        ([], [], "no answer", {}),
        ([1, math.nan], ["", "a"], "no usable answer", {"empty answer": 1, "no score": 1}),
        ([0.5], ["a"], "one answer only", {"one answer only": 1}),
        (
            [1, 1],
            ["a", "a "],
            "one answer only",
            {"one answer only": 1, "equal to another answer": 1},
        ),
        ([1, 1], ["a", "b"], "all right", {"all right": 2}),
        ([0, 0, 1], ["a", "b", ""], "all wrong", {"all wrong": 2, "empty answer": 1}),
        ([0.5, 0.5], ["a", "b"], "all scores equal", {"all scores equal": 2}),
        (
            [0.5, 0.25],
            ["a", "b"],
            "difference below min_margin",
            {"difference below min_margin": 2},
        ),
    ],
)
def test_each_reason_why_a_prompt_has_no_pair(scores, texts, reason: str, unused: dict):
    given = answers(*scores, texts=texts)
    found = best_worst(given, min_margin=0.5)
    check_account(given, found)
    assert found.pairs == [] and reasons(found) == (unused, reason)


def test_apart():
    high, low = answers(0.75, 0.5)
    assert apart(high, low, 0.25) and not apart(high, low, 0.26)
    assert not apart(low, high, 0.0) and not apart(low, low, 0.0)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"min_margin": -0.1}, r"pairing\.min_margin=-0\.1 must be a number from 0 on"),
        ({"min_margin": math.nan}, r"pairing\.min_margin=nan must be"),
        ({"min_margin": math.inf}, r"pairing\.min_margin=inf must be"),
        ({"min_margin": "0"}, r"pairing\.min_margin=0 must be a number"),
        ({"min_margin": True}, r"pairing\.min_margin=True must be"),
        ({"max_pairs": 0}, r"pairing\.max_pairs=0 must be a whole number from 1 on"),
        ({"max_pairs": 1.5}, r"pairing\.max_pairs=1\.5 must be"),
        ({"turns": 0}, r"pairing\.turns=0 must be a whole number from 1 on"),
        ({"turns": None}, r"pairing\.turns=None must be"),
        ({"turns": True}, r"pairing\.turns=True must be"),
    ],
)
def test_settings_that_cannot_be(settings: dict, message: str):
    with pytest.raises(ConfigError, match=message):
        check(**settings)
