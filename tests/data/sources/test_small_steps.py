"""Steps of one digit: every line is true, and the last one gives the task's answer."""

import re

import pytest

from plm.data.sources.exercises import agrees, solve
from plm.data.sources.small_steps import SMALL_STEPS, add, chain_sum, subtract

pytest.importorskip("reasoning_gym")

OWN = {
    "chain_sum": {"min_terms": 2, "max_terms": 4, "min_digits": 1, "max_digits": 4},
    "leg_counting": {"min_animals": 2, "max_animals": 4},
    "number_filtering": {"min_decimals": 1, "max_decimals": 1},
}


@pytest.mark.parametrize("family", OWN)
def test_answers_and_questions_are_the_tasks(family: str):
    from plm.data.sources.solutions import SOLVERS

    plain = solve(family, OWN[family], 11, 200)
    small = solve(family, OWN[family], 11, 200, SMALL_STEPS)
    for (_, task, worked), (_, _, ours) in zip(plain, small, strict=True):
        assert ours.question == worked.question
        assert agrees(ours.answer, task["answer"])
    assert SOLVERS["gcd"] is SMALL_STEPS["gcd"]


@pytest.mark.parametrize("family", ["chain_sum", "leg_counting"])
def test_every_equation_holds(family: str):
    checked = 0
    for _, _, worked in solve(family, OWN[family], 12, 100, SMALL_STEPS):
        for line in worked.steps:
            equation = re.sub(r"^[a-z ]+: ", "", line).partition(", ")[0]
            left, equals, right = equation.partition(" = ")
            if equals:
                assert eval(left) == int(right), line
                checked += 1
    assert checked > 400


def test_columns_by_hand():
    assert add(58, 7) == [
        "8 + 7 + 0 = 15, carry 1: 5",
        "5 + 0 + 1 = 6, carry 0: 65",
        "58 + 7 = 65",
    ]
    assert add(95, 9)[-2:] == ["9 + 0 + 1 = 10, carry 1: 04", "95 + 9 = 104"]
    assert subtract(52, 17) == [
        "2 - 7 - 0 = -5, borrow 1: 5",
        "5 - 1 - 1 = 3, borrow 0: 35",
        "52 - 17 = 35",
    ]


@pytest.mark.parametrize(
    ("expression", "answer"),
    [("3 - 5", "-2"), ("3 - 5 - 4", "-6"), ("3 - 5 + 1", "-1"), ("3 - 5 + 9", "7"), ("4 - 4", "0")],
)
def test_signs(expression: str, answer: str):
    assert chain_sum({"expression": expression}).answer == answer
