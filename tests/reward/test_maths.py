r"""One final answer, equal as mathematics; nothing for what only the comparison works out."""

import importlib.util
import logging

import pytest

from plm.errors import ConfigError
from plm.evaluation.generated import Item
from plm.reward.common import Example, check, score
from plm.reward.maths import Maths, final, work

THERE = importlib.util.find_spec("math_verify") is not None
needs = pytest.mark.skipif(not THERE, reason="math-verify is not installed")


@pytest.fixture(scope="module")
def reward():
    maths = Maths(cpu_s=2.0, workers=1)
    yield maths
    maths.close()


def example(gold: str, question: str = "What is it?", cut: bool = False) -> Example:
    return Example(question, Item("a", question, "", gold), cut)


# Decided by text or as decimal numbers: no worker, and no math-verify.
@pytest.mark.parametrize(
    ("gold", "text", "wanted"),
    [
        ("2", "Answer: 2.0", 1),
        ("2", "so\n$$\\boxed{2}$$", 1),
        ("1234", "Answer: $1,234$", 1),
        ("$18", "Answer: \\$18", 1),
        ("50%", "Answer: 50", 1),
        ("50", "Answer: 50\\%", 1),
        ("2", "Answer: x = 2", 1),
        ("5", "Answer: 2 + 3 = 5", 1),
        ("2", "Answer: \\boxed{2}", 1),
        ("2", "\\boxed{3}\nAnswer: 2", 1),
        ("2", "Answer: 3\nno, \\boxed{2}", 1),
        ("0.1", "Answer: 0.10000001", 0),
        ("2", "Answer: 2\nAnswer: 3", 0),
        ("2", "\\boxed{2}\\boxed{3}", 0),
        ("2", "Answer: $2$ or $3$", 0),
        ("2", "2", 0),
        ("2", "Answer:", 0),
        ("2", "Answer: 1 + 1", 0),
        ("7", "Answer: \\frac{84}{12}", 0),
        ("5050", "\\boxed{\\sum_{k=1}^{100} k}", 0),
        ("16", "Answer: 2^4", 0),
        ("16", "Answer: (2)(8)", 0),
        ("3", "Answer: 1 2", 0),
    ],
)
def test_what_needs_no_comparison(reward: Maths, gold: str, text: str, wanted: float):
    before = reward.equivalence.verdicts.total()
    assert reward(text, example(gold)) == wanted
    assert reward.equivalence.verdicts.total() == before


@needs
def test_equality(reward: Maths):
    equal = [
        ("1/2", "Answer: 0.5"),
        ("0.5", "Answer: 1/2"),
        (r"\frac{1}{2}", r"\boxed{\frac{2}{4}}"),
        (r"\frac{\sqrt{2}}{2}", r"Answer: $\frac{1}{\sqrt2}$"),
        ("x^2+2x+1", r"so \boxed{(x+1)^2}"),
        ("x=2", "Answer: 2"),
        (r"\{1,2\}", "Answer: 2, 1"),
        ("y=2x+1", "Answer: $y=1+2x$"),
        (r"2\pi", r"Answer: \(\pi \cdot 2\)"),
    ]
    other = [
        ("1/3", "Answer: 0.333333"),
        ("10^{-9}", "Answer: 0.0"),
        ("(1,2)", "Answer: (2, 1)"),
        (r"\{1,2\}", "Answer: 1, 2, 3"),
        ("x", "Answer: y"),
        ("x^2", "Answer: O(1)"),
        ("x^2/2", r"Answer: \int x dx"),
        ("x=2", "Answer: 0=0"),
    ]
    for pairs, wanted in ((equal, 1.0), (other, 0.0)):
        examples = [example(gold) for gold, _ in pairs]
        found = score(reward, [text for _, text in pairs], examples)
        assert dict(zip(pairs, found, strict=True)) == dict.fromkeys(pairs, wanted)


@needs
def test_the_problem_s_own_expression_is_no_result(reward: Maths):
    question = r"Expand $\left(x + 1\right)^2$."
    assert reward("Answer: (x+1)^2", example("x^2+2x+1", question)) == 0
    assert reward("Answer: (x+1)^2", example("x^2+2x+1")) == 1
    assert reward("Answer: 3 / 4", example("3/4", "Which is more, 3/4 or 2/3?")) == 1


@needs
def test_an_answer_that_cannot_be_read_is_counted_and_said_once(reward: Maths, caplog):
    caplog.set_level(logging.WARNING, "plm")
    found = score(reward, ["Answer: 3", "Answer: 4", "Answer: )("], [example(")(")] * 3)
    assert found == [0, 0, 1] and reward.bad_golds == {")("}
    assert reward("Answer: 3", example("$1$ and $2$")) == 0 and len(reward.bad_golds) == 2
    (said,) = caplog.records
    assert "reward=maths cannot read the task's answer ')('" in said.getMessage()


def test_what_was_cut_may_have_an_answer_on_a_line_of_its_own():
    assert final("Answer: 12", example("", cut=True)) is None
    assert final("Answer: 12\nand", example("", cut=True)) == "12"


@pytest.mark.parametrize(
    ("text", "left"),
    [("-12", 0), ("1/2", 1), (r"2\pi^2", 1), (r"3\cdot\sqrt{2}", 1), ("2 - 3", 1), (r"5\,000", 0)],
)
def test_work_that_is_left(text: str, left: int):
    assert work(text) == left


def test_it_is_refused_where_it_cannot_work(monkeypatch: pytest.MonkeyPatch):
    with pytest.raises(ConfigError, match="reward=maths: the prompts come from no task"):
        Maths()("Answer: 4", Example("?"))
    with pytest.raises(ConfigError, match="the prompts come from no task that grades answers"):
        check(Maths(), graded=False)
    with pytest.raises(ConfigError, match="cpu_s=0, memory_mib=1024"):
        Maths(cpu_s=0)
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    with pytest.raises(ConfigError, match=r"math-verify is not installed.*plm\[maths\]"):
        check(Maths(), graded=True)
