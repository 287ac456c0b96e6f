"""The fill reward: what is verified, how the list is read, and what no trick earns."""

import pytest

from plm.errors import ConfigError
from plm.evaluation.generated import Item
from plm.process.masked import masked as task_of
from plm.reward.common import Example
from plm.reward.masked import masked, read, verified
from tests.process.solved import task, worked


def hole(gold: str, kind: str = "number", weight: float = 1.0) -> dict:
    return {"gold": gold, "kind": kind, "weight": weight, "visible": False}


def example(*holes: dict, cut: bool = False) -> Example:
    question = "Ann?\n\n[1] = [2] pens\nFill each hole, one a line, like [1] ..."
    return Example(question, Item("a", question, "", "", more={"holes": list(holes)}), cut)


TWO = example(hole("24"), hole("48/2", "expression"))


@pytest.mark.parametrize(
    ("text", "reward"),
    [
        ("[1] 24\n[2] 48/2", 1.0),
        ("I think that …\n[2]: 48 / 2\n[1] = $24.0\n", 1.0),
        ("[1] 24 pens.\n[2] 24", 0.5),
        ("[2] 48/2", 0.5),
        ("[1] 24\n[2] 48/2\nDone.", 0.0),
        ("[1] 24\n[1] 25\n[2] 48/2", 0.0),
        ("[1] 24\n[2] 48/2\n[3] 7", 0.0),
        ("[1] 24, [2] 48/2", 0.0),
        ("1. 24\n2. 48/2", 0.0),
        ("24\n48/2", 0.0),
        ("[0] 24", 0.0),
    ],
)
def test_how_a_list_is_read(text: str, reward: float):
    assert masked(text, TWO) == reward


@pytest.mark.parametrize(
    ("kind", "gold", "right", "wrong"),
    [
        (
            "number", "24",
            ["24", "24.0", "+24", "$24", "24%", "24 clips", "**24**", "48/2", "24 clips in."],
            ["25", "24 25", "24 or 25", "24, 25", "it is 24", "24 a b c", "-24", "\uff12\uff14",
             "2 4", "24 of 30", "twenty-four", "", "24\u200b5", "12+12"],
        ),
        ("number", "-0.5", ["-.5", "\u22121/2", "-0.50"], ["0.5", "1/2"]),
        ("number", "1/2", ["0.5", "2/4", "\\frac{1}{2}"], ["1", "2"]),
        ("number", "1,000", ["1000"], ["1"]),
        (
            "expression", "48 + 24",
            ["48+24", "24 + 48", "$48 + $24", "(48+24)"],
            ["72", "48+24+0", "36+36", "48-24", "48", "", "24+24+24", "48+24=72"],
        ),
        ("expression", "2 x 3", ["2*3", "3 \u00d7 2", "2 \\cdot 3"], ["6", "2+3"]),
        ("latex", "x^2 = 4", ["x^2=4", "$x^2 = 4$", "\\(x^2=4\\)"], ["x^2=5", "x = 2"]),
        ("latex", "\\frac{1}{2}", ["1/2", "0.5", "\\dfrac{1}{2}"], ["2"]),
        (
            "theorem", "Pythagorean theorem",
            ["the Pythagorean Theorem", "pythagorean theorem."],
            ["theorem", "Pythagorean or Fermat's theorem", ""],
        ),
    ],
)  # fmt: skip
def test_what_is_verified(kind: str, gold: str, right: list[str], wrong: list[str]):
    assert {text for text in right if not verified(text, hole(gold, kind))} == set()
    assert {text for text in wrong if verified(text, hole(gold, kind))} == set()


def test_leaking_holes_weigh_less():
    one = example(hole("1", weight=0.25), hole("2"), hole("3"))
    assert masked("[1] 1", one) == pytest.approx(0.25 / 2.25)
    assert masked("[1] 1\n[2] 2\n[3] 3", one) == 1.0


def test_what_was_cut_is_worth_nothing():
    assert masked("[1] 24\n[2] 48/2", example(*TWO.item.more["holes"], cut=True)) == 0.0
    assert read("[1] 24", example(hole("24"), cut=True)) is None


def test_what_was_read_is_read_again():
    text = "well\n[2]  48 / 2 \n[1]: 24"
    assert read(text, TWO) == "[1] 24\n[2] 48 / 2"
    assert masked(read(text, TWO) or "", TWO) == masked(text, TWO) == 1.0
    assert read("nothing", TWO) is None


@pytest.mark.parametrize("item", [None, Item("a", "?", "", "4")])
def test_prompts_of_another_task_are_refused(item: Item | None):
    with pytest.raises(ConfigError, match="reward=masked: the prompts have no holes to fill"):
        masked("[1] 4", Example("?", item))


def degenerate(example: Example) -> dict[str, str]:
    """Answers that know nothing, by name; `gold` ones hide the right answer among others."""
    asked, n = example.question, len(example.item.more["holes"])
    golds = [hole["gold"] for hole in example.item.more["holes"]]
    every = range(1, n + 1)
    return {
        "empty": "",
        "space": " \n\t\n",
        "copy": asked,
        "copy twice": f"{asked}\n{asked}",
        "copy but for its end": asked[: asked.rindex("\n")],
        "the steps as they are": "\n".join(asked.splitlines()[1:-1]),
        "holes alone": "\n".join(f"[{i}]" for i in every),
        "holes in holes": "\n".join(f"[{i}] [{i}]" for i in every),
        "boxed": "\\boxed{1}" * 500,
        "boxed in a list": "\n".join(
            f"[{i}] \\boxed{{{golds[i - 1]}}} \\boxed{{1}}" for i in every
        ),
        "gold in a long list": "\n".join(
            f"[{i}] " + ", ".join(map(str, range(30))) + f", {golds[i - 1]}" for i in every
        ),
        "every number in turn": "\n".join(
            f"[{i}] {x}" for i in every for x in (*range(200), golds[i - 1])
        ),
        "gold and its neighbour": "\n".join(f"[{i}] {golds[i - 1]} or 7" for i in every),
        "look-alikes": "\n".join(
            f"[{i}] {golds[i - 1]}".translate({ord("0") + d: 0xFF10 + d for d in range(10)})
            for i in every
        ),
        "look-alikes in the answer": "\n".join(
            f"[{i}] " + golds[i - 1].translate({ord("0") + d: 0x1D7CE + d for d in range(10)})
            for i in every
        ),
        "more holes than there are": "\n".join(f"[{i}] {g}" for i, g in enumerate([*golds, 1], 1)),
        "100 kB of one": "1" * 100_000,
        "100 kB of lines": "[1] 1\n" * 17_000,
        "100 kB in a hole": f"[1] {'1 ' * 50_000}",
        "100 kB of brackets": "[1] " + "(" * 100_000,
    }  # fmt: skip


def test_no_trick_earns_more_than_a_constant():
    solutions = [
        worked(f"{n}/2 = {n // 2}", f"{n // 2} + {3 * n} = {n // 2 + 3 * n}", f"So {n * 5} in all.")
        for n in range(100, 400, 6)
    ]
    made = task_of(task(*solutions), text="{question}\n{steps}\nFill.", holes=3, rate=0.6)
    examples = [Example(item.question, item) for item in made.items]
    level = made._beside_the_model()["constant"].value
    answers = [degenerate(one) for one in examples]
    means = {
        name: sum(masked(a[name], one) for a, one in zip(answers, examples, strict=True)) / 50
        for name in answers[0]
    }  # fmt: skip
    assert level < 0.3 and {name: mean for name, mean in means.items() if mean > level} == {}
    assert all(masked(item.answer, Example(item.question, item)) == 1.0 for item in made.items)
