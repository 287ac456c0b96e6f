"""Verdicts of a process of their own: held to processor time, from any thread, the same again."""

import os
import threading

import pytest

from plm.evaluation.equivalence import DEEPEST, LONGEST, Equivalence

pytest.importorskip("math_verify", reason="math-verify is not installed")

PAIRS = {
    ("2", r"\frac{4}{2}"): "equal",
    ("2", "3"): "unequal",
    ("2", "2, 2"): "unread",
    (r"\frac{3}{4}", r"Answer: 1 Answer: \frac{3}{4} Answer: 2"): "unequal",
    ("2", "}{"): "unread",
    ("}{", "2"): "gold_unread",
    ("2", r"\frac{0}{0}"): "unread",
    ("2", r"\lim_{x \to 0} \sin(1/x)"): "unread",
    ("2", "9^{9^{9}}"): "cpu_time",
    ("2", "1" * (LONGEST + 1)): "long",
    ("2", "{" * (DEEPEST + 1)): "long",
}


@pytest.fixture(scope="module")
def judge():
    found = Equivalence(cpu_s=0.5, workers=2)
    yield found
    found.close()


def test_verdicts_in_order_whatever_stands_beside_them(judge: Equivalence):
    assert dict(zip(PAIRS, judge.many(list(PAIRS)), strict=True)) == PAIRS
    again = list(reversed(PAIRS))
    assert judge.many(again) == [PAIRS[pair] for pair in again]
    assert judge.verdicts["cpu_time"] == 2


def test_any_thread_may_ask(judge: Equivalence):
    found: list[str] = []
    thread = threading.Thread(target=lambda: found.extend(judge.many([("7", "7.0")])))
    thread.start()
    thread.join()
    assert found == ["equal"]


def test_a_worker_that_dies_loses_its_question_and_is_replaced(judge: Equivalence):
    judge.many([("1", "1")])
    os.kill(judge._process.pid, 9)
    pair = ("3", r"\frac{6}{2}")
    assert judge.many([pair]) == ["lost"]
    assert judge.many([pair]) == ["equal"]
