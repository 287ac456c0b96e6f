"""What a round is made of, refused before anything is sampled."""

from pathlib import Path
from typing import Any

import pytest

from plm.errors import ConfigError
from plm.rounds.parts import Parts
from plm.rounds.template import Template


@pytest.fixture
def settings(tmp_path: Path) -> dict[str, Any]:
    path = tmp_path / "prompts.jsonl"
    path.write_text('{"prompt": "why?"}\n', encoding="utf-8")

    def partial(name: str, **own: Any) -> dict[str, Any]:
        return {"_target_": f"plm.{name}", "_partial_": True, **own}

    return {
        "init_from": "runs/sft",
        "prompts": {"_target_": "plm.rounds.prompts.rows", "path": str(path)},
        "candidates": partial("candidates.chain.chain", turns=2),
        "reward": partial("reward.rule.rule"),
        "pairing": partial("pairing.best_worst.best_worst"),
        "refinement": {"text": "{question}{answer}"},
        "round": {"solutions": False, "prompts": 3, "rows": 2, "seed": 1, "compiled": False},
    }


def test_all_of_it_is_built(settings: dict[str, Any]) -> None:
    parts = Parts.of(settings)
    assert [item.question for item in parts.task.items] == ["why?"]
    assert (parts.number, parts.rows, parts.seed, parts.compiled) == (3, 2, 1, False)
    assert isinstance(parts.template, Template) and parts.candidates.keywords == {"turns": 2}


@pytest.mark.parametrize("key", ["prompts", "reward", "pairing", "init_from"])
def test_a_part_that_is_missing(settings: dict[str, Any], key: str) -> None:
    with pytest.raises(ConfigError, match=f"^{key}.* is missing"):
        Parts.of({**settings, key: None})


@pytest.mark.parametrize("value", [0, -1, 1.5, True, "many", None])
@pytest.mark.parametrize("key", ["prompts", "rows"])
def test_a_number_that_is_none(settings: dict[str, Any], key: str, value: Any) -> None:
    settings["round"][key] = value
    with pytest.raises(ConfigError, match=rf"round\.{key}={value} must be a whole number from 1"):
        Parts.of(settings)


@pytest.mark.parametrize("value", [-1, 0.5, "x"])
def test_a_seed_that_is_none(settings: dict[str, Any], value: Any) -> None:
    settings["round"]["seed"] = value
    with pytest.raises(ConfigError, match=rf"round\.seed={value} must be a whole number from 0"):
        Parts.of(settings)


@pytest.mark.parametrize(
    ("key", "name"), [("candidates", "chain"), ("reward", "rule"), ("pairing", "best_worst")]
)
def test_a_setting_that_is_not_taken(settings: dict[str, Any], key: str, name: str) -> None:
    settings[key]["foo"] = 1
    with pytest.raises(ConfigError, match=f"^{key}: {name} got an unexpected .*'foo'"):
        Parts.of(settings)


@pytest.mark.parametrize(
    ("key", "name", "value", "line"),
    [
        ("candidates", "answers", 0, r"candidates\.answers=0"),
        ("pairing", "max_pairs", 0, r"pairing\.max_pairs=0"),
        ("refinement", "text", "{answer}", r"no place \{question\}"),
        ("reward", "_target_", "plm.reward.verifier.verifier", "reward=verifier"),
    ],
)
def test_a_part_that_cannot_work(
    settings: dict[str, Any], key: str, name: str, value: Any, line: str
) -> None:
    settings[key][name] = value
    with pytest.raises(ConfigError, match=line):
        Parts.of(settings)


@pytest.mark.parametrize("turns", [1, 2, 3])
def test_as_many_refinements_as_must_agree(settings: dict[str, Any], turns: int) -> None:
    agreeing = {"_target_": "plm.pairing.agreeing.agreeing", "_partial_": True, "turns": 2}
    settings["pairing"], settings["candidates"]["turns"] = agreeing, turns
    if turns < 2:
        with pytest.raises(ConfigError, match=r"candidates\.turns=1 .*candidates\.turns=2$"):
            Parts.of(settings)
    else:
        assert Parts.of(settings).number == 3
