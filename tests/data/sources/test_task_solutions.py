"""Conversations of a task's items: what is asked, what solves it, and what has no solution."""

import copy
from pathlib import Path

import pytest
import yaml

from plm.config import build
from plm.data.conversations import Conversation, check
from plm.data.recipe import load_recipe
from plm.data.sources.task_solutions import task_solutions
from plm.data.tally import Tally
from plm.errors import ConfigError
from plm.evaluation.exercises import exercises
from plm.process.masked import masked
from plm.process.reordered import reordered
from plm.reward.common import Example

pytest.importorskip("reasoning_gym")

ROOT = Path(__file__).parents[3]
FAMILIES = {"chain_sum": {"min_terms": 2, "max_terms": 2, "min_digits": 3, "max_digits": 3}}
TEXT = "{question}\n{steps}\nGo on."


def sums(n: int = 12, **settings):
    return exercises(FAMILIES, n=n, items_seed=6_000_000, **settings)


@pytest.mark.parametrize("make", [masked, reordered])
def test_what_is_said_earns_the_full_reward(make):
    task = make(sums(), text=TEXT)
    talks = [Conversation.from_text(d.text) for d in task_solutions(task)]
    assert len(talks) == len(task.items) > 8
    for talk, item in zip(talks, task.items, strict=True):
        check(talk.messages)
        user, said = talk.messages
        assert user["content"] == item.question
        example = Example(item.question, item)
        assert task.measures["reward"](said["content"], example) == 1.0


def test_names_and_groups_tell_items_apart():
    documents = list(task_solutions(sums()))
    assert len({d.name for d in documents}) == len({d.group for d in documents}) == 12


def test_with_and_without_steps():
    long, short = list(task_solutions(sums())), list(task_solutions(sums(steps=False)))
    for one, other in zip(long, short, strict=True):
        _, said = Conversation.from_text(one.text).messages
        _, answer = Conversation.from_text(other.text).messages
        assert said["content"].splitlines()[-1] == answer["content"]
        assert said["content"].count("\n") >= 3


def test_items_without_a_solution_are_counted():
    origin = task_solutions(exercises({"number_sequence": {}}, n=3, items_seed=6_000_000))
    tally = Tally()
    assert [d for item in origin.items for d in origin.read(item, tally)] == []
    assert tally.dropped == {"no worked solution": 3}


def test_what_is_no_task():
    with pytest.raises(ConfigError, match="task=str is none whose answers are written"):
        task_solutions("exercises")


@pytest.mark.parametrize("recipe_name", ["process", "process_short"])
@pytest.mark.parametrize("name", ["masked", "reordered"])
def test_the_recipe_asks_as_the_prompts_do(name: str, recipe_name: str):
    recipe = copy.deepcopy(load_recipe(recipe_name).content)
    prompts = yaml.safe_load((ROOT / f"configs/prompts/{name}.yaml").read_text())
    origin = recipe["sources"][name]["origin"]
    assert origin["task"]["_target_"] == prompts["_target_"]
    assert origin["task"]["text"] == prompts["text"]
    origin["task"]["task"]["n"] = 3
    made = list(build(origin))
    assert len(made) == 6
    shares = yaml.safe_load((ROOT / "configs/phases/sft_process.yaml").read_text())
    assert set(shares["process"]["mixture"]) == set(recipe["sources"])
