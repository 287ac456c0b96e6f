"""Steps to put in order: how they are mixed, and what is earned without reading them."""

from itertools import permutations
from pathlib import Path
from random import Random

import pytest

from plm.config import build
from plm.errors import ConfigError
from plm.evaluation.common import Part
from plm.evaluation.generated import record
from plm.evaluation.gsm8k import gsm8k
from plm.process.cues import by_cues
from plm.process.reordered import DRAWS, blocks, chance, echo, permuted, reordered
from plm.process.steps import split
from tests.model.common import compose
from tests.process.solved import STEPS, task, worked

TEXT = "{question}\n{steps}\nOrder?"


def orders(n: int, draw: str) -> list[tuple[int, ...]]:
    """The right answers: the label of each step, over all ways of showing them."""
    shown = permutations(range(n))
    if draw == "derangement":
        shown = (p for p in shown if all(i != thing for i, thing in enumerate(p)))
    return [tuple(p.index(step) for step in range(n)) for p in shown]


@pytest.mark.parametrize("draw", DRAWS)
@pytest.mark.parametrize("n", [4, 5, 6])
def test_chance_by_counting(n: int, draw: str):
    found = orders(n, draw)

    def earned(guess: tuple[int, ...]) -> float:
        return (
            sum(sum(a == b for a, b in zip(guess, o, strict=True)) for o in found) / len(found) / n
        )

    best = max(earned(guess) for guess in permutations(range(n)))
    assert best == pytest.approx(chance(n, draw), abs=1e-12)
    assert earned(tuple(range(n))) == pytest.approx(echo(n, draw), abs=1e-12)


@pytest.mark.parametrize("draw", DRAWS)
def test_every_order_is_drawn_equally_often(draw: str):
    random, counts = Random(0), dict.fromkeys(map(tuple, orders(4, draw)), 0)
    number = 200 * len(counts)
    for _ in range(number):
        order = permuted(4, draw, random)
        counts[tuple(order.index(step) for step in range(4))] += 1
    # 200 each, and a standard deviation of 14.
    assert all(140 < count < 260 for count in counts.values())


def test_items():
    made = reordered(task(worked()), text=TEXT, seed=1)
    (item,) = made.items
    shown = dict(line.split(". ", 1) for line in item.question.splitlines()[1:-1])
    assert list(shown) == ["A", "B", "C", "D"]
    assert [shown[label] for label in item.answer.split()] == list(STEPS)
    assert all(label != place for label, place in zip(item.answer.split(), "ABCD", strict=True))
    assert item.solution == item.answer and item.text == f"Question: {item.question}\nSolution:\n"
    assert made.grade([(item, f"So:\n{item.answer}\n", False), (item, "A B C D", False)]) == [
        (True, item.answer), (False, "A B C D"),
    ]  # fmt: skip


def test_a_draw_is_a_function_of_seed_and_name():
    alone = reordered(task(worked()), text=TEXT).items[0]
    beside = reordered(task(*[worked()] * 9), text=TEXT).items
    assert alone == beside[0] and len({item.answer for item in beside}) > 2
    answers = {reordered(task(worked()), text=TEXT, seed=s).items[0].answer for s in range(9)}
    assert len(answers) > 2


def test_the_numbers_of_steps_are_not_shown():
    solution = worked(*[f"{i}. Take {i * 7}." for i in range(1, 5)])
    (item,) = reordered(task(solution), text=TEXT).items
    assert sorted(item.more["steps"]) == ["Take 14.", "Take 21.", "Take 28.", "Take 7."]


def test_neighbours_are_put_together():
    found = split("a\nb\nc\n\nd\ne")
    assert blocks(found.texts, found.gaps, 2) == ["a\nb", "c\n\nd\ne"]
    assert blocks(found.texts, found.gaps, 5) == list("abcde")
    made = reordered(task(worked(*"abcdefg")), text=TEXT, max_steps=5)
    assert made.items[0].more["steps"] == ["a", "b", "c\nd", "e", "f\ng"]
    assert "1 solution of more than max_steps=5 steps" in made.notes[1]


def test_what_is_left_out_is_counted():
    given = task(worked(), worked("a", "b", "c"), worked("a", "a", "b", "c"), "", "Answer: 1")
    made = reordered(given, text=TEXT)
    assert len(made.items) == 1
    assert made.notes[0] == (
        "1 of 5 solutions used; left out: 1 with an answer without steps, 1 with fewer than 4 "
        "steps, 1 with no worked solution, 1 with two equal steps"
    )
    assert "0.333 by the best constant guess; steps: 4 in 1" in made.notes[1]


def test_cues():
    assert by_cues(STEPS, "Ann has 48 pens.") == 1.0
    assert by_cues(STEPS[::-1], "Ann has 48 pens.") == 0.0
    # Nothing to see: any order, which has one of four in its place on average.
    assert by_cues(["a", "b", "c", "d"], "") == pytest.approx(0.25)
    # The first two look equally early.
    assert by_cues(["5 of 5", "x", "5 of 8", "so 9"], "5") == pytest.approx(0.75)


def test_figures():
    made = reordered(task(worked(), worked()), text=TEXT)
    said = [made.items[0].answer, "A B C D"]
    records = [
        record(i, item, [("", False)], [(False, answer)])
        for i, (item, answer) in enumerate(zip(made.items, said, strict=True))
    ]
    subject = type("Subject", (), {"style": "chat"})
    figures = made.result(subject, [Part(records)]).figures
    assert {name: figure.value for name, figure in figures.items() if name != "accuracy"} == {
        "reward": 0.5, "echo": 0.5, "cut": 0.0, "cues": 1.0, "constant": pytest.approx(1 / 3),
    }  # fmt: skip


@pytest.mark.parametrize(
    ("settings", "words"),
    [
        ({"min_steps": 3}, r"min_steps=3 must be at least 4: .* puts 1/\(n-1\) right, here 1/2"),
        ({"max_steps": 3}, "max_steps=3 must be from min_steps=4 to 26"),
        ({"max_steps": 27}, "max_steps=27 must be from min_steps=4 to 26"),
        ({"draw": "random"}, "draw=random is none of derangement, uniform"),
        ({"by": "words"}, "by=words is none of auto, numbered, lines, sentences"),
        ({"min_steps": "few"}, "min_steps=few is not a whole number"),
        ({"text": "{steps}"}, r"must be a text with \{question\} and \{steps\}"),
        ({"task": "gsm8k"}, "task: it has no worked solutions"),
    ],
)
def test_bad_settings(settings: dict, words: str):
    with pytest.raises(ConfigError, match=words):
        reordered(**{"task": task(worked()), "text": TEXT, **settings})


def test_no_solution_is_long_enough():
    with pytest.raises(ConfigError, match="none of its 1 item can be used: 1 with fewer than 4"):
        assert reordered(task(worked("a", "b")), text=TEXT).items


def test_the_configuration():
    made = build(compose("+prompts=reordered", "prompts.task.n=3")["prompts"])
    assert made.items and made.settings["min_steps"] == 4


def test_gsm8k(test_data: Path):
    given = gsm8k(str(test_data / "gsm8k"), split="train", limit=500)
    made = reordered(given, text=compose("+prompts=reordered")["prompts"]["text"])
    assert len(made.items) > 200
    beside = {name: figure.value for name, figure in made._beside_the_model().items()}
    assert beside["constant"] < beside["cues"] < 0.5
    assert all(all(made.grade([(item, item.solution, False)])[0]) for item in made.items)
