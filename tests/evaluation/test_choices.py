"""Every file of configs/task builds, and settings over them reach those that have them."""

from pathlib import Path

import pytest
import yaml

from plm.errors import ConfigError
from plm.evaluation import choices

NAMES = [n for n in choices.known() if n != "plm_table"]


def test_the_table_and_the_further_ones_are_there():
    table = choices.nodes(["plm_table"])
    assert len(table) == 13 and {"mmlu", "ceval", "hellaswag", "mbpp"} < set(table)
    assert {"ifeval", "musr", "truthfulqa"} < set(NAMES)


@pytest.mark.parametrize("name", NAMES)
def test_each_builds_and_has_what_a_task_has(name: str):
    (task,) = choices.built(choices.nodes([name])).values()
    assert all(hasattr(task, part) for part in ("check", "run", "result"))


@pytest.mark.parametrize("name", NAMES)
def test_each_file_names_all_settings_that_it_takes(name: str):
    """So that scripts/evaluate.py can say what a task does not take."""
    node = yaml.safe_load((choices.CONFIGS / f"{name}.yaml").read_text())
    assert "limit" in node


def test_settings_go_where_they_are_taken():
    own = {"gsm8k": {"path": "x.jsonl"}}
    found = choices.nodes(["gsm8k", "held_out", "piqa"], shared={"limit": 3, "samples": 2}, own=own)
    assert [found[n]["limit"] for n in found] == [3, 3, 3]
    assert found["gsm8k"]["samples"] == 2 and "samples" not in found["piqa"]
    assert found["gsm8k"]["path"] == "x.jsonl"
    # The files themselves are read anew each time.
    assert choices.nodes(["gsm8k"])["gsm8k"]["limit"] is None


def test_a_file_of_ones_own(tmp_path: Path):
    path = tmp_path / "mine.yaml"
    path.write_text("_target_: plm.evaluation.gsm8k.gsm8k\npath: a.jsonl\n")
    assert list(choices.nodes([str(path)])) == ["mine"]
    path.write_text("a: 1\n")
    with pytest.raises(ConfigError, match="neither a _target_ nor a list"):
        choices.nodes([str(path)])
    path.write_text("a: [\n")
    with pytest.raises(ConfigError, match="is not YAML"):
        choices.nodes([str(path)])


@pytest.mark.parametrize(
    ("names", "settings", "message"),
    [
        (["helaswag"], {}, "no task 'helaswag'; did you mean hellaswag"),
        ([], {}, r"tasks=\[…\] is empty; there are arc_challenge"),
        (["piqa"], {"shared": {"n": 3}}, "n=3: none of piqa has the setting n"),
        (["piqa"], {"own": {"gsm8k": {}}}, "gsm8k.…: no task of this name; there are piqa"),
    ],
)
def test_mistakes(names, settings, message: str):
    with pytest.raises(ConfigError, match=message):
        choices.nodes(names, **settings)


def test_a_setting_that_a_task_does_not_take_is_named():
    nodes = choices.nodes(["piqa"], own={"piqa": {"colour": 1}})
    with pytest.raises(ConfigError, match=r"piqa: plm\.evaluation\.lm_eval\.LmEval.*colour"):
        choices.built(nodes)
    nodes = choices.nodes(["gsm8k"], own={"gsm8k": {"colour": 1}})
    with pytest.raises(ConfigError, match="gsm8k: unknown setting colour=1"):
        choices.built(nodes)
