"""What every preset of configs/rlvr must hold, and what each changes."""

import re
from functools import cache
from pathlib import Path
from typing import Any

import pytest

from plm.config import check_targets
from plm.rlvr.settle import settle_rlvr
from tests.model.common import choices, compose

CONFIGS = Path(__file__).parents[2] / "configs"
PRESETS = choices("rlvr")
EVERY = pytest.mark.parametrize("name", PRESETS)
# What differs from the experiment without a preset, by its place; parts of a choice by its target.
CHANGES = {
    "grpo": {
        "stage.aggregation": "sequence",
        "stage.divergence": "k3",
        "stage.divergence_weight": 0.04,
    },
    "dapo": {
        "stage.policy.clip_high": 0.28,
        "stage.rollouts.updates": 4,
        "stage.rollouts.dynamic": True,
        "data.sources.outcome.rewards.length": "overlong",
        "data.sources.outcome.weights": {"right": 2.0, "length": 1.0},
    },
    "dr_grpo": {"stage.advantage": "centred", "stage.aggregation": "constant"},
    "gspo": {
        "stage.policy": "gspo",
        "stage.aggregation": "sequence",
        "stage.rollouts.updates": 4,
    },
    "cispo": {"stage.policy": "cispo", "stage.rollouts.updates": 4},
    "sapo": {
        "stage.policy": "sapo",
        "stage.aggregation": "sequence",
        "stage.rollouts.updates": 4,
    },
    "rloo": {
        "stage.policy": "reinforce",
        "stage.advantage": "leave_one_out",
        "stage.aggregation": "sequence_sum",
        "stage.divergence": "k1",
        "stage.divergence_weight": 0.05,
        "stage.divergence_in": "reward",
    },
    "ppo": {
        "stage.policy": "ppo",
        "stage.advantage": "gae",
        "stage.rollouts.updates": 4,
        "stage.critic": {
            "peak_lr": 3e-4,
            "clip": 0.2,
            "clip_norm": 1.0,
            "lam": None,
            "warmup_steps": 0,
        },
    },
    "reinforce_pp": {
        "stage.advantage": "batch",
        "stage.divergence": "k2",
        "stage.divergence_weight": 0.001,
    },
}


@cache
def _composed(*overrides: str) -> dict[str, Any]:
    return compose("+experiment=plm_rlvr", *overrides, "scale=test", "init_from=a_run")


def _changes(before: Any, after: Any, place: str = "") -> dict[str, Any]:
    """What differs, by its place; a choice that is another one by the last word of its target."""
    if before == after:
        return {}
    target = after.get("_target_") if isinstance(after, dict) else None
    if target and (not isinstance(before, dict) or before.get("_target_") != target):
        return {place: target.rpartition(".")[2]}
    if not isinstance(before, dict) or not isinstance(after, dict):
        return {place: after}
    found: dict[str, Any] = {}
    for key in {**before, **after}:
        inner = f"{place}.{key}" if place else str(key)
        found |= _changes(before.get(key), after.get(key), inner)
    return found


def test_each_preset_has_its_expectation():
    assert set(PRESETS) == set(CHANGES)


@EVERY
def test_changes_what_it_says_and_nothing_else(name: str):
    plain, preset = _composed(), _composed(f"+rlvr={name}")
    for part in ("stage", "data"):
        mine = {k: v for k, v in CHANGES[name].items() if k.startswith(f"{part}.")}
        assert _changes(plain[part], preset[part], part) == mine
    # The groups' own nodes, which the stage's refer to.
    ours = {"stage", "data", "policy", "advantage", "aggregation", "rollouts"}
    assert {k: v for k, v in plain.items() if k not in ours} == {
        k: v for k, v in preset.items() if k not in ours
    }


@EVERY
def test_can_be_run(name: str):
    settings = _composed(f"+rlvr={name}")
    check_targets(settings["stage"])
    settle_rlvr(settings)


@EVERY
def test_says_its_paper_its_departures_and_its_command(name: str):
    text = (CONFIGS / "rlvr" / f"{name}.yaml").read_text()
    assert text.startswith("# @package _global_\n")
    assert re.search(r"^# Paper: .+\(arXiv:\d{4}\.\d{5}\)", text, re.M)
    assert re.search(r"^# Departs: \w+", text, re.M)
    assert f"+experiment=plm_rlvr +rlvr={name}" in text


def test_the_command_line_has_the_last_word():
    words = ("rollouts.updates=3", "policy.clip_high=0.5", "aggregation=sequence")
    stage = _composed("+rlvr=dapo", *words)["stage"]
    assert stage["rollouts"]["updates"] == 3 and stage["rollouts"]["dynamic"] is True
    assert stage["policy"]["clip_high"] == 0.5
    assert stage["aggregation"]["_target_"].endswith(".sequence")


def test_the_punishment_of_length_follows_the_longest_answer():
    outcome = _composed("+rlvr=dapo", "rollouts.max_new_tokens=100")["data"]["sources"]["outcome"]
    length = outcome["rewards"]["length"]
    assert (length["longest"], length["cache"]) == (100, 20)
    # The first kind says what counts as solved.
    assert list(outcome["rewards"]) == ["right", "length"]
