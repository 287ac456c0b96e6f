"""The order reward: what is a line of labels, and what no trick earns."""

from itertools import permutations

import pytest

from plm.errors import ConfigError
from plm.evaluation.generated import Item
from plm.process.reordered import chance, echoed
from plm.process.reordered import reordered as task_of
from plm.reward.common import Example
from plm.reward.reordered import read, reordered
from tests.process.solved import task, worked

ASKED = "Ann?\nA. two\nB. one\nC. four\nD. three\nWrite the letters in order."


def example(order: str = "BADC", cut: bool = False) -> Example:
    return Example(ASKED, Item("a", ASKED, "", "", more={"order": list(order)}), cut)


@pytest.mark.parametrize(
    ("text", "reward"),
    [
        ("B A D C", 1.0),
        ("BADC", 1.0),
        ("First one, then two.\n\nAnswer: B, A, D, C.\n", 1.0),
        ("**Order:** B > A > D > C", 1.0),
        ("B -> A -> D -> C", 1.0),
        (f"{ASKED}\nB A D C", 1.0),
        ("B A C D", 0.5),
        ("A B C D", 0.0),
        ("B D C A", 0.25),
        ("B A D", 0.0),
        ("B A D C C", 0.0),
        ("B A D D", 0.0),
        ("B A D C E", 0.0),
        ("b a d c", 0.0),
        ("answer: b a d c", 0.0),
        ("The order is B A D C", 0.0),
        ("B A D C\nThat is it.", 0.0),
        ("A B C D\nB A D C", 0.0),
        ("B\nA\nD\nC", 0.0),
        ("\u0412 \u0410 D \u0421", 0.0),
        ("\uff22\uff21\uff24\uff23", 0.0),
        ("B A D C" + " " * 300, 1.0),
        ("B A D C" + " " * 300 + ".", 0.0),
    ],
)
def test_how_an_answer_is_read(text: str, reward: float):
    assert reordered(text, example()) == reward


def test_what_was_cut_is_worth_nothing():
    assert reordered("B A D C", example(cut=True)) == 0.0
    assert read("B A D C", example(cut=True)) is None


def test_all_but_one_cannot_be_right():
    found = {reordered(" ".join(order), example()) for order in permutations("ABCD")}
    assert found == {0.0, 0.25, 0.5, 1.0}


def test_echo():
    assert echoed("So:\nABCD", example()) == 1.0
    assert (
        echoed("B A D C", example()) == echoed("", example()) == echoed("A B C", example()) == 0.0
    )


@pytest.mark.parametrize("item", [None, Item("a", "?", "", "4")])
def test_prompts_of_another_task_are_refused(item: Item | None):
    with pytest.raises(ConfigError, match="reward=reordered: the prompts have no steps"):
        reordered("A B", Example("?", item))


def degenerate(example: Example) -> dict[str, str]:
    """Answers that know nothing, by name."""
    asked, labels = example.question, sorted(example.item.more["order"])
    right = " ".join(example.item.more["order"])
    alike = str.maketrans("ABCEH", "\u0410\u0412\u0421\u0415\u041d")
    return {
        "empty": "",
        "space": " \n\t\n",
        "copy": asked,
        "copy but for its end": asked[: asked.rindex("\n")],
        "the shown order": " ".join(labels),
        "the shown order backwards": " ".join(labels[::-1]),
        "all permutations": "\n".join(" ".join(order) for order in permutations(labels)),
        "all permutations, the right one last": "\n".join(
            [*(" ".join(order) for order in permutations(labels)), right]
        ),
        "all permutations on one line": " ".join("".join(order) for order in permutations(labels)),
        "repeated labels": " ".join(labels * 2),
        "one label": " ".join("A" * len(labels)),
        "the right one twice": f"{right} {right}",
        "all letters": "A B C D E F G H I J K L M N O P Q R S T U V W X Y Z",
        "too many": f"{right} Z",
        "boxed": "\\boxed{A B C D}" * 500,
        "gold in a long line": f"It may be A B C D, or {right}, or another",
        "look-alikes": right.translate(alike),
        "full width": "".join(chr(ord(letter) + 0xFEE0) for letter in right if letter != " "),
        "100 kB": "A " * 50_000,
        "100 kB of lines": "A B C D\n" * 12_500,
        "100 kB of space": "A" + " " * 100_000 + "B",
    }  # fmt: skip


@pytest.mark.parametrize("draw", ["derangement", "uniform"])
def test_no_trick_earns_more_than_a_constant(draw: str):
    solutions = [worked(*[f"Take {n * k}." for k in range(1, 5)]) for n in range(7, 407)]
    made = task_of(task(*solutions), text="{question}\n{steps}\nOrder?", draw=draw)
    examples = [Example(item.question, item) for item in made.items]
    answers = [degenerate(one) for one in examples]
    means = {
        name: sum(reordered(a[name], one) for a, one in zip(answers, examples, strict=True)) / 400
        for name in answers[0]
    }  # fmt: skip
    # 400 prompts: a constant guess has a standard error of 0.015.
    level = chance(4, draw) + 0.05
    assert {name: mean for name, mean in means.items() if mean > level} == {}
    honest = {"the shown order", "the shown order backwards"}
    assert {name for name, mean in means.items() if mean > 0} <= honest
    assert all(reordered(item.answer, Example(item.question, item)) == 1.0 for item in made.items)
