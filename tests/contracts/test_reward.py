"""What every choice of configs/reward must hold."""

from pathlib import Path

import pytest
from omegaconf import OmegaConf

from plm.config import build
from plm.evaluation.generated import Item
from plm.evaluation.gsm8k import grade
from plm.reward.common import Example, check, score
from plm.rounds.common import Answer
from tests.reward import tiny

CHOICES = sorted((Path(__file__).parents[2] / "configs/reward").glob("*.yaml"))
PROCESS = {
    "holes": [{"gold": "4", "kind": "number", "weight": 1.0}], "order": ["B", "A", "D", "C"]
}  # fmt: skip
ITEM = Item("a", "two and two", "", "4", more=PROCESS)
GOOD = {"masked": "two\n[1] 4", "reordered": "two\nB A D C"}
"""What a choice of configs/reward takes as good; other choices take an answer."""


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> str:
    return tiny.bert(tmp_path_factory.mktemp("reward"))


@pytest.fixture(params=CHOICES, ids=lambda path: path.stem)
def reward(request, folder: str):
    if request.param.stem == "maths":
        pytest.importorskip("math_verify")
    config = OmegaConf.load(request.param)
    return build(config, **({"model": folder} if "model" in config else {}))


def example(cut: bool = False) -> Example:
    return Example(ITEM.question, ITEM, cut, grade, Answer("", 1, 0, 1, cut))


def test_there_are_choices():
    assert CHOICES


def test_it_can_be_checked_before_there_is_anything_to_score(reward):
    check(reward, graded=True)


def test_an_empty_a_cut_and_a_copied_answer_score_0(reward):
    texts = ["", " \n", ITEM.question, f"{ITEM.question}\n", "is Answer: 4"]
    cut = [False] * 4 + [True]
    assert score(reward, texts, [example(c) for c in cut]) == [0.0] * 5


def test_a_good_answer_scores_above_0_and_1_at_most(reward, request):
    choice = request.node.callspec.params["reward"].stem
    (found,) = score(reward, [GOOD.get(choice, "two and two is\nAnswer: 4")], [example()])
    assert 0 < found <= 1


def test_one_by_one_is_as_many_at_once(reward):
    texts = ["is\nAnswer: 4", "", "Answer: 5", "is\nAnswer: 4"]
    examples = [example() for _ in texts]
    found = score(reward, texts, examples)
    assert found == pytest.approx([reward(t, e) for t, e in zip(texts, examples, strict=True)])
    assert score(reward, texts, examples) == found and score(reward, [], []) == []
