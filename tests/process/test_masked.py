"""Solutions with holes: where these are, what leaks, what is said of them."""

from pathlib import Path
from random import Random

import pytest

from plm.config import build
from plm.errors import ConfigError
from plm.evaluation.common import Part
from plm.evaluation.generated import record
from plm.evaluation.gsm8k import gsm8k
from plm.process.masked import Masking, make_holes, masked
from plm.process.spans import KINDS
from tests.model.common import compose
from tests.process.solved import task, worked

TEXT = "{question}\n{steps}\nFill."
ALL = Masking(rate=1.0, holes=99, spans=KINDS, together=True, leaks="drop", leak_weight=0.25)


def holes(question: str, text: str, **rules):
    return make_holes(question, text, ALL._replace(**rules), Random(0))


def test_an_entity_is_hidden_wherever_it_stands():
    found = holes("Has 48.", "48/2 = 24\n24 + 48 = 72", spans=("number",))
    assert found.text == "48/[1] = [2]\n[2] + 48 = [3]"
    assert [hole["gold"] for hole in found.holes] == ["2", "24", "72"]
    assert (found.drawn, found.leaked) == (4, 1)


def test_each_place_by_itself():
    found = holes("Has 48.", "48/2 = 24\n24 + 48 = 72", spans=("number",), together=False)
    # With all of them hidden, 48 alone can be copied: from the question.
    assert found.text == "48/[1] = [2]\n[3] + 48 = [4]"
    assert (found.drawn, found.leaked) == (6, 2)


def test_what_leaks_is_kept_or_weighs_less():
    text = "48/2 = 24"
    kept, weighed = (
        holes("Has 48.", text, spans=("number",), leaks=how) for how in ("keep", "weigh")
    )
    assert kept.text == weighed.text == "[1]/[2] = [3]"
    assert [hole["weight"] for hole in kept.holes] == [1.0, 1.0, 1.0]
    assert [hole["weight"] for hole in weighed.holes] == [0.25, 1.0, 1.0]
    assert [hole["visible"] for hole in kept.holes] == [True, False, False]


def test_a_dropped_hole_makes_others_leak():
    # The expression stands in the question; as soon as it is visible, its numbers are, too.
    found = holes("What is 3 + 4?", "3 + 4 = 7", leaks="drop")
    assert found.text == "3 + 4 = [1]"


def test_another_hole_takes_the_place_of_one_that_leaks():
    for seed in range(20):
        rules = ALL._replace(holes=1, spans=("number",))
        found = make_holes("Has 48.", "48 and 5", rules, Random(seed))
        assert found.text == "48 and [1]"


@pytest.mark.parametrize(("rate", "most", "number"), [(0.01, 9, 1), (0.5, 9, 3), (1.0, 2, 2)])
def test_how_many(rate: float, most: int, number: int):
    found = holes("", "a 1 b 2 c 3 d 4 e 5 f 6", rate=rate, holes=most)
    assert len(found.holes) == found.text.count("[") == number


def test_no_place_lies_in_another():
    for seed in range(50):
        text = "48 + 24 = 72 and 2*(48 + 24) = 144, $x^2 = 4$"
        rules = ALL._replace(together=bool(seed % 2), leaks="keep")
        found = make_holes("", text, rules, Random(seed))
        filled = found.text
        for place, hole in enumerate(found.holes, start=1):
            filled = filled.replace(f"[{place}]", hole["gold"])
        assert filled == text


def test_items():
    made = masked(task(worked()), text=TEXT, holes=2, seed=3)
    (item,) = made.items
    first, *_, last = item.question.splitlines()
    assert (first, last) == (
        "Ann has 48 pens. And then?",
        "Fill.",
    ) and "Answer" not in item.question
    assert item.text == f"Question: {item.question}\nSolution:\n"
    golds = [hole["gold"] for hole in item.more["holes"]]
    assert item.answer == item.solution == f"[1] {golds[0]}\n[2] {golds[1]}"
    flat = [(item, item.answer, False), (item, "[1] 0", False), (item, item.answer, True)]
    assert made.grade(flat) == [(True, item.answer), (False, "[1] 0"), (False, None)]


def test_a_draw_is_a_function_of_seed_and_name():
    one, three = task(worked()), task(worked(), worked(), worked())
    alone = masked(one, text=TEXT).items[0]
    beside = masked(three, text=TEXT).items
    assert alone == beside[0] == masked(one, text=TEXT).items[0]
    assert len({item.question for item in beside}) > 1
    assert len({masked(one, text=TEXT, seed=seed).items[0].question for seed in range(9)}) > 1


def test_what_is_left_out_is_counted():
    made = masked(
        task(worked(), "", "Answer: 3", worked("By hand."), worked("See [1]: 9")), text=TEXT
    )
    assert len(made.items) == 1
    assert made.notes[0] == (
        "1 of 5 solutions used; left out: 1 with a text that has [1] already, 1 with an answer "
        "without steps, 1 with no worked solution, 1 with nothing to mask"
    )
    assert made.notes[1].startswith("leak rate 0.")
    with pytest.raises(ConfigError, match="none of its 1 item can be used: 1 with leaking holes"):
        assert masked(task(worked("48 pens.")), text=TEXT).items


def test_the_reward_stands_before_the_other_figures():
    made = masked(task(worked(), worked()), text=TEXT, holes=2, rate=1.0)
    records = [
        record(0, made.items[0], [("", False)], [(True, made.items[0].answer)]),
        record(1, made.items[1], [("", False)], [(False, None)]),
    ]
    subject = type("Subject", (), {"style": "chat"})
    figures = made.result(subject, [Part(records)]).figures
    assert list(figures) == ["reward", "accuracy", "cut", "constant", "copied"]
    assert figures["reward"].value == 0.5 and figures["copied"].value == 0.0


def test_baselines():
    made = masked(task(worked("is 7"), worked("is 7"), worked("is 8")), text=TEXT)
    assert made._beside_the_model()["constant"].value == pytest.approx(2 / 3)
    kept = masked(task(worked("48 - 7 = 41")), text=TEXT, rate=1.0, spans=["number"], leaks="keep")
    assert kept._beside_the_model()["copied"].value == pytest.approx(1 / 3)


@pytest.mark.parametrize(
    ("settings", "words"),
    [
        ({"text": "{question}"}, r"text='\{question\}' must be a text with .* and \{steps\}"),
        ({"text": 3}, "text=3 must be a text"),
        ({"rate": 0.0}, "rate=0.0 must be over 0"),
        ({"rate": "half"}, "rate=half is not a number"),
        ({"holes": 100}, "holes=100 must be from 1 to 99"),
        ({"leaks": "ignore"}, "leaks=ignore is none of drop, weigh, keep"),
        ({"leak_weight": 0.0}, "leak_weight=0.0 must be over 0"),
        ({"spans": ["word"]}, "spans=word is none of number, expression, latex, theorem"),
        ({"spans": []}, "leaves nothing to mask"),
        ({"spans": "number"}, "spans=number is not a list of names"),
        ({"seed": 0.5}, "seed=0.5 is not a whole number"),
        ({"task": None}, "task: it has no worked solutions"),
    ],
)  # fmt: skip
def test_bad_settings(settings: dict, words: str):
    with pytest.raises(ConfigError, match=words):
        masked(**{"task": task(worked()), "text": TEXT, **settings})


def test_braces_in_a_question_stay():
    made = masked(task(worked(), question="{steps} of {question}?"), text=TEXT)
    assert made.items[0].question.startswith("{steps} of {question}?\n")


def test_the_configuration():
    made = build(compose("+prompts=masked", "prompts.task.n=3")["prompts"])
    assert made.task.settings["items_seed"] == 400_000_000
    assert {item.group for item in made.items} == {"chain_sum", "leg_counting"}
    other = compose("+prompts=masked", "prompts@prompts.task=gsm8k", "prompts.task.path=p")[
        "prompts"
    ]
    assert other["task"]["split"] == "train" and "families" not in other["task"]
    assert build(other).settings["task"]["split"] == "train"


def test_gsm8k(test_data: Path):
    given = gsm8k(str(test_data / "gsm8k"), split="train", limit=500)
    text = compose("+prompts=masked")["prompts"]["text"]
    made = masked(given, text=text)
    assert len(made.items) > 490
    assert made._beside_the_model()["constant"].value < 0.08
    for item in made.items:
        assert all(made.grade([(item, item.solution, False)])[0])
        assert "####" not in item.question and "<<" not in item.question
