"""What is read off a completion; degenerate ones answer nothing."""

import pytest

from plm.evaluation import answers as a

QUESTION = "Go on like this:\nAnswer: 5\nWork out 2 + 3."


@pytest.mark.parametrize(
    ("text", "answer"),
    [
        ("2 + 3 = 5\nAnswer: 5", "5"),
        ("Answer: 4\nNo.\nAnswer: 5\n", "5"),
        ("**Answer:** 5", "5"),
        ("answer : 5", "5"),
        ("The answer: 5", None),
        ("5", None),
        ("", None),
        ("Answer:", None),
        ("Answer:   \n5", None),
        (QUESTION, None),
        (f"{QUESTION}\nAnswer: 6", "6"),
    ],
)
def test_the_last_answer_line(text: str, answer: str | None):
    assert a.answer_of(text, question=QUESTION, cut=False) == answer


def test_an_unfinished_line_is_no_answer():
    assert a.answer_of("Answer: 12", question="", cut=True) is None
    assert a.answer_of("Answer: 12\nAnd so", question="", cut=True) == "12"
    assert a.answer_of("Answer: 12\nAnswer: 1", question="", cut=True) == "12"


def test_hashes_only_where_they_are_asked_for():
    assert a.answer_of("so\n#### 18", question="", cut=False) is None
    assert a.answer_of("so\n#### 18", question="", cut=False, hashes=True) == "18"
    both = "Answer: 3\n#### 4"
    assert a.answer_of(both, question="", cut=False, hashes=True) == "4"


@pytest.mark.parametrize(
    ("answer", "wanted", "same"),
    [
        ("a  b", "a b", True),
        ("**7**.", "7", True),
        ("ab", "a b", False),
        ("['\u22123', '4']", "['-3', '4']", True),
        ("a \u2212 b", "a - b", False),
        ("7 or 8", "7", False),
        ("17", "7", False),
        (None, "7", False),
        ("", "", False),
        (".", "", False),
    ],
)
def test_same_text(answer: str | None, wanted: str, same: bool):
    assert a.same_text(answer, wanted) is same


@pytest.mark.parametrize(
    ("answer", "wanted", "same"),
    [
        ("7.0", "7", True),
        ("+7", "7", True),
        ("1,234", "1234", True),
        ("-7", "7", False),
        ("1,2,3", "123", False),
        ("7e0", "7", False),
        ("٧", "7", False),
        ("7 8", "7", False),
        ("nan", "nan", False),
        ("\u221218", "-18", True),
        ("\u221218", "18", False),
        ("-18", "\u221218", True),
        (None, "7", False),
    ],
)
def test_same_number(answer: str | None, wanted: str, same: bool):
    assert a.same_number(answer, wanted) is same


@pytest.mark.parametrize(
    ("answer", "number"),
    [
        ("$18 a day", "18"),
        ("18.", "18"),
        ("18, so", "18"),
        ("-3.5%", "-3.5"),
        ("1,234,567", "1,234,567"),
        ("1,2345", None),
        ("3 or 4", None),
        ("10-5", None),
        ("\u221218", "-18"),
        ("\u2212$18 a day", "-18"),
        ("10\u22125", None),
        ("x18", None),
        ("18" + " " * 199 + "a", None),
        ("none", None),
        (None, None),
    ],
)
def test_only_number(answer: str | None, number: str | None):
    assert a.only_number(answer) == number


@pytest.mark.parametrize(
    ("text", "found"),
    [
        (r"\boxed{1} and \boxed {\frac{1}{2}}", ["1", r"\frac{1}{2}"]),
        (r"\boxed{\{3\}}", [r"\{3\}"]),
        (r"\boxed{\boxed{5}}", [r"\boxed{5}"]),
        (r"\boxed{a \boxed{b}", ["b"]),
        (r"}}\boxed{1", []),
        ("boxed{1}", []),
    ],
)
def test_boxes(text: str, found: list[str]):
    assert a.boxes(text) == found


def test_lines_of_answers():
    assert a.lines_of_answers("Answer: 1\n**answer :** 2\nthe answer: 3\nAnswer:") == ["1", "2", ""]


@pytest.mark.parametrize(("text", "foreign"), [("３ × 5", True), ("٧", True), ("3 × 5²", False)])
def test_digits_of_other_scripts(text: str, foreign: bool):
    assert a.foreign_digits(text) is foreign
