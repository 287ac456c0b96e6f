"""What is logged and shown of a sampling."""

from typing import Any

import pytest

from plm.rlvr.rollouts import Drawn, Rollout
from plm.rlvr.told import looked_at, of_drawn, shown
from tests.rlvr.made import rollout


def _one(number: int, sample: int, reward: float, size: int, **more: Any) -> Rollout:
    more = {"rewards": {"right": reward}, **more}
    return rollout([7], [1] * size, number=number, sample=sample, reward=reward, **more)


def _drawn() -> Drawn:
    told = {"groups": 5, "same": 2, "solved_all": 1, "solved_none": 3, "unfilled": 1}
    made = [
        _one(4, 0, 0.25, 2, advantage=-1.0, told={"turns": 3}),
        _one(4, 1, 1.0, 6, advantage=1.0, cut=True),
        _one(6, 0, 0.5, 4, source="words", rewards={"right": 0.5, "form": 1.0}),
        _one(6, 1, 0.5, 4, source="words", rewards={"right": 0.5, "form": 0.0}),
    ]
    return Drawn(made, 2, told)


def test_sums_and_counts() -> None:
    assert of_drawn(_drawn()) == {
        "reward": (2.25, 4),
        "reward/sums.right": (1.25, 2),
        "reward/words.form": (1.0, 2),
        "reward/words.right": (1.0, 2),
        "length": (16, 4),
        "length_ended": (10, 3),
        "cut": (1.0, 4),
        "advantage": (2.0, 4),
        "turns": (3.0, 4),
        "groups_same": (2, 5),
        "solved_all": (1, 5),
        "solved_none": (3, 5),
        "solved_some": (1, 5),
        "unfilled": (1, 5),
    }


def test_of_answers_that_were_all_cut_none_has_the_length_of_one_that_ended() -> None:
    drawn = _drawn()
    for one in drawn.rollouts:
        one.cut = True
    # A mean of nothing would be no number in metrics.csv.
    assert "length_ended" not in of_drawn(drawn)


def test_what_the_alarms_look_at() -> None:
    drawn = _drawn()
    drawn.rollouts[0].learn = [1, 0]
    for one in drawn.rollouts:
        # What a tool said has no log-probability.
        one.sampled = [-0.5 * learn for learn in one.learn]
    assert looked_at(drawn) == {
        "cut": 0.25, "same": 0.4, "low": 0.25, "high": 1.0, "entropy": 0.5
    }  # fmt: skip


def test_answers_that_are_compared_with_no_others_may_be_equal() -> None:
    """A value model, or a batch's mean, tells them apart."""
    alone, valued = _drawn(), _drawn()
    alone.group = 1
    valued.rollouts[0].values = [0.5, 0.5]
    assert looked_at(alone)["same"] == looked_at(valued)["same"] == 0


@pytest.mark.parametrize("number", [1, 2, 5])
def test_the_best_and_the_worst_of_each_group_are_shown(number: int) -> None:
    found = shown(_drawn(), lambda ids: f"<{ids}>", number)
    assert [one["settings"] for one in found] == [
        "reward 1 (right 1), cut",
        "reward 0.25 (right 0.25)",
        "reward 0.5 (right 0.5, form 1)",
        "reward 0.5 (right 0.5, form 0)",
    ][: 2 * number]
    assert found[0]["prompt"] == "<[7]>" and found[0]["text"] == "a"


def test_a_group_of_one_is_shown_once() -> None:
    assert len(shown(Drawn([_one(0, 0, 1.0, 2)], 1), str, 3)) == 1
