"""The verifier says what the task's grade says, asks it once, and refuses prompts without one."""

from functools import partial

import pytest

from plm.errors import ConfigError
from plm.evaluation.generated import Item
from plm.evaluation.gsm8k import grade
from plm.evaluation.humaneval import run_tests
from plm.reward.common import Example, check, score
from plm.reward.verifier import verifier

ITEM = Item("a", "Two and two?", "", "4")


def test_right_and_wrong():
    example = Example(ITEM.question, item=ITEM, grade=grade)
    texts = ["Answer: 4", "#### 5", "4", "", "Answer: 4.0\n"]
    assert [verifier(text, example) for text in texts] == [1.0, 0.0, 0.0, 0.0, 1.0]


def test_what_was_cut_counts_as_the_task_says():
    cut = Example(ITEM.question, item=ITEM, grade=grade, cut=True)
    assert [verifier(text, cut) for text in ("Answer: 4", "Answer: 4\nand so")] == [0.0, 1.0]


@pytest.mark.parametrize("built", [verifier, partial(verifier)], ids=["function", "partial"])
def test_each_grade_is_asked_once_and_in_order(built):
    calls = []

    def noting(name, flat):
        calls.append((name, [(item.name, text) for item, text, _ in flat]))
        return [(text == name, text) for _, text, _ in flat]

    x, y = partial(noting, "x"), partial(noting, "y")
    grades = [x, y, x, x, y]
    examples = [Example("", item=Item(str(i), "", "", ""), grade=g) for i, g in enumerate(grades)]
    assert score(built, ["x", "x", "y", "x", "y"], examples) == [1.0, 0.0, 0.0, 1.0, 1.0]
    assert calls == [
        ("x", [("0", "x"), ("2", "y"), ("3", "x")]),
        ("y", [("1", "x"), ("4", "y")]),
    ]


def test_programs_run_in_the_sandbox():
    tests = "def check(f):\n    assert f(3) == 4"
    more = {"prompt": "def up(n):\n", "entry_point": "up", "test": tests}
    item = Item("p", "", "", "", more=more)
    example = Example("", item=item, grade=partial(run_tests, limits={}, workers=2))
    texts = ["    return n + 1\n", "    return n\n", "    exit(0)\n", ""]
    assert score(verifier, texts, [example] * 4) == [1.0, 0.0, 0.0, 0.0]


@pytest.mark.parametrize("example", [Example("?"), Example("?", item=ITEM)])
def test_prompts_without_a_grade_are_refused(example: Example):
    with pytest.raises(ConfigError, match="reward=verifier: the prompts come from no task"):
        verifier("Answer: 4", example)


def test_that_is_said_before_there_is_anything_to_score():
    for built in (verifier, partial(verifier)):
        check(built, graded=True)
        with pytest.raises(ConfigError, match="reward=verifier: the prompts come from no task"):
            check(built, graded=False)
