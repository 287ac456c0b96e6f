"""Steps are the ones a reader sees, and no letter is lost."""

import json
from pathlib import Path

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from plm.process.steps import WAYS, bare, formulas, split, trajectory

CASES = {
    "lines": ("a = 1\n\n  b = 2\nc", "auto", ["a = 1", "b = 2", "c"]),
    "sentences of one line": (
        "Mr. Lee has 3.14 m. He cuts it, e.g. Twice. Is it 5? Yes! So (a) holds.",
        "auto",
        ["Mr. Lee has 3.14 m.", "He cuts it, e.g. Twice.", "Is it 5?", "Yes!", "So (a) holds."],
    ),
    "initials, versus and a list": (
        "1. Take J. Doe vs. Bob.\n2. Done.", "sentences", ["1. Take J. Doe vs. Bob.", "2. Done."],
    ),
    "numbered, with more lines": (
        "1. Add:\n2 + 3 = 5\n2. Double.\nDone.", "auto",
        ["1. Add:\n2 + 3 = 5", "2. Double.\nDone."],
    ),
    "steps in bold": (
        "**Step 1:** add\nall\n**Step 2:** stop", "auto",
        ["**Step 1:** add\nall", "**Step 2:** stop"],
    ),
    "numbers that do not count up are lines": (
        "2. Add.\n2. Double.\nx", "auto", ["2. Add.", "2. Double.", "x"],
    ),
    "3.14 begins no step": ("3.14 is it\n1.5 too", "numbered", ["3.14 is it\n1.5 too"]),
    "a block is whole": (
        "We have\n\\[\na = 1\n\nb = 2\n\\]\nand\n$$x\ny$$", "auto",
        ["We have", "\\[\na = 1\n\nb = 2\n\\]", "and", "$$x\ny$$"],
    ),
    "an environment is whole": (
        "A\n\\begin{align*}\na\n\\end{align*}\nB", "lines",
        ["A", "\\begin{align*}\na\n\\end{align*}", "B"],
    ),
    "a formula is whole": ("Let $x = 1. Y$ be. Then z.", "auto", ["Let $x = 1. Y$ be.", "Then z."]),
    "Chinese": ("设它是 3。那么得 6。", "auto", ["设它是 3。", "那么得 6。"]),
    "nothing": (" \n ", "auto", []),
}  # fmt: skip


@pytest.mark.parametrize(("text", "by", "steps"), CASES.values(), ids=CASES.keys())
def test_where_a_text_is_cut(text: str, by: str, steps: list[str]):
    found = split(text, by)
    assert list(found.texts) == steps
    assert found.text == text and len(found.gaps) == len(steps) + 1


def test_auto_takes_the_first_way_that_gives_enough():
    text = "One. Two.\nThree. Four."
    assert [len(split(text, fewest=n).texts) for n in (2, 3, 4, 9)] == [2, 4, 4, 4]


PIECES = [
    "a",
    "7",
    ".",
    "! ",
    "\n",
    "  ",
    "1. ",
    "\n2. ",
    "Step 3: ",
    "$",
    "$x=1$",
    "\\[",
    "\\]",
    "。",
]


@given(st.lists(st.sampled_from(PIECES), max_size=30).map("".join), st.sampled_from(WAYS))
@example("\\[\n\\]\n1. a", "numbered")
def test_the_pieces_are_the_text_again(text: str, by: str):
    found = split(text, by)
    assert found.text == text
    assert all(step and step == step.strip() for step in found.texts)
    assert not "".join(found.gaps).strip()


@pytest.mark.parametrize(
    ("step", "left"),
    [("1. Add.", "Add."), ("(2) b", "b"), ("**Step 3:** c", "c"), ("3.5 is", "3.5 is"), ("x", "x")],
)
def test_a_step_without_its_number(step: str, left: str):
    assert bare(step) == left


@pytest.mark.parametrize(
    ("solution", "steps"),
    [
        ("Has 48/2 = <<48/2=24>>24.\n#### 24", "Has 48/2 = 24."),
        ("1 + 1 = 2\nAnswer: 2\n", "1 + 1 = 2"),
        ("1 + 1 = 2\n**Answer:** 2", "1 + 1 = 2"),
        ("Answer: 2", ""),
        ("Answer: 2\nor 3", "Answer: 2\nor 3"),
        ("", ""),
    ],
)
def test_the_final_answer_is_no_step(solution: str, steps: str):
    assert trajectory(solution) == steps


@pytest.mark.parametrize(
    ("text", "found"),
    [
        ("it costs $5 and $6, $7-$8, 2 * $5 = $10.", []),
        ("so $x^2$ and $n$ and \\(y\\)", ["\\(y\\)", "$x^2$", "$n$"]),
        ("never closed: $$ or \\[ or $x^2", []),
    ],
)
def test_money_is_no_formula(text: str, found: list[str]):
    assert {text[low:high] for low, high in formulas(text)} == set(found)


def test_all_solutions_of_gsm8k(test_data: Path):
    rows = (test_data / "gsm8k" / "train.jsonl").read_text("utf-8").splitlines()
    solutions = [json.loads(row)["answer"] for row in rows]
    assert len(solutions) == 7473
    for solution in solutions:
        text = trajectory(solution)
        assert "<<" not in text and "####" not in text
        found = split(text, fewest=4)
        assert found.text == text and len(found.texts) >= min(2, text.count("\n") + 1)
