"""Every file of configs/task builds, and settings over them reach those that have them."""

from pathlib import Path

import pytest
import yaml

from plm.errors import ConfigError, DataError, PlmError
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
    # Of a task that wraps another, that one has them.
    inner = node["task"] if isinstance(node.get("task"), dict) else node
    assert "limit" in inner


def test_settings_go_where_they_are_taken():
    own = {"gsm8k": {"path": "x.jsonl"}}
    found = choices.nodes(["gsm8k", "held_out", "piqa"], shared={"limit": 3, "samples": 2}, own=own)
    assert [found[n]["limit"] for n in found] == [3, 3, 3]
    assert found["gsm8k"]["samples"] == 2 and "samples" not in found["piqa"]
    assert found["gsm8k"]["path"] == "x.jsonl"
    # The files themselves are read anew each time.
    assert choices.nodes(["gsm8k"])["gsm8k"]["limit"] is None


def test_settings_reach_the_task_that_another_one_wraps():
    name = "exercises_sft_refined"
    own = {name: {"n": 3, "turns": 2, "families.chain_sum.min_terms": 1}}
    found = choices.nodes([name, "piqa"], shared={"limit": 5, "temperature": 1.0}, own=own)[name]
    inner = found["task"]
    assert (inner["n"], inner["limit"], inner["temperature"], found["turns"]) == (3, 5, 1.0, 2)
    assert inner["families"]["chain_sum"]["min_terms"] == 1 and "n" not in found
    assert "limit" not in found


def test_the_refined_exercises_are_those_of_the_plain_task():
    plain = choices.nodes(["exercises_sft"])["exercises_sft"]
    inner = choices.nodes(["exercises_sft_refined"])["exercises_sft_refined"]["task"]
    differs = {key for key in plain if plain[key] != inner[key]}
    assert set(plain) == set(inner) and differs == {"n", "lookup", "temperature"}


def test_a_setting_inside_another_leaves_its_neighbours():
    before = choices.nodes(["exercises"])["exercises"]["families"]
    own = {"exercises": {"families.gcd.max_value": 9, "families.lcm.min_value": 2}}
    after = choices.nodes(["exercises"], own=own)["exercises"]["families"]
    assert len(before) == 17 and set(after) == set(before)
    assert after["gcd"] == {"max_value": 9} and after["lcm"] == {"max_value": 300, "min_value": 2}
    assert after["count_bits"] == before["count_bits"]
    # A mapping itself takes the place of the other; null may become one.
    whole = {"exercises": {"families": {"gcd": {}}}, "humaneval": {"limits.cpu_s": 1}}
    found = choices.nodes(["exercises", "humaneval"], own=whole)
    assert found["exercises"]["families"] == {"gcd": {}}
    assert found["humaneval"]["limits"] == {"cpu_s": 1}
    with pytest.raises(ConfigError, match=r"exercises\.n\.x=1: exercises\.n=50 holds no settings"):
        choices.nodes(["exercises"], own={"exercises": {"n.x": 1}})


@pytest.mark.parametrize(
    ("task", "setting", "value", "message"),
    [
        ("exercises", "n", "abc", "exercises: n=abc is not a whole number"),
        ("exercises", "n", 1.5, r"exercises: n=1\.5 is not a whole number"),
        ("exercises", "n", True, "exercises: n=True is not a whole number"),
        ("exercises", "shots", "abc", "exercises: shots=abc is not a whole number"),
        ("exercises", "items_seed", "x", "exercises: items_seed=x is not a whole number"),
        ("exercises", "families", ["gcd"], r"families=\['gcd'\] is not a mapping, {a: …}"),
        ("exercises", "families.gcd", 5, r"families\.gcd=5 is not a mapping, {} or null"),
        ("exercises", "lookup", "maybe", "lookup=maybe is not true or false"),
        ("exercises", "trained", 3, "trained=3 is not a list"),
        (
            "exercises",
            "trained",
            [{"seed": 1, "problems": "x"}],
            "trained: .*: problems=x is not a whole number",
        ),
        (
            "exercises",
            "trained",
            [{"seed": 1, "problems": 2, "families": "gcd"}],
            "trained: .*: families=gcd is not a list of names",
        ),
        ("exercises", "samples", "many", "samples=many is not a whole number"),
        ("exercises", "temperature", "hot", "temperature=hot is not a number"),
        ("exercises", "limit", "x", "limit=x is not a whole number or null"),
        ("exercises", "k", True, "k=True is not a whole number or a list of them"),
        ("held_out", "windows", "x", "held_out: windows=x is not a whole number"),
        ("held_out", "seq_len", "abc", "held_out: seq_len=abc is not a whole number or null"),
        ("held_out", "seq_len", 0, "held_out: seq_len=0 must be at least 1"),
        ("held_out", "isolate_documents", "maybe", "isolate_documents=maybe is not true or false"),
        ("held_out", "sources", "math", r"sources=math is not a list of names, \[a,b\] or null"),
        ("gsm8k", "shots", "x", "gsm8k: shots=x is not a whole number"),
        ("gsm8k", "shots_seed", "x", "gsm8k: shots_seed=x is not a whole number"),
        ("gsm8k", "path", 5, "gsm8k: path=5 is not text or null"),
        ("piqa", "unsafe_code", "maybe", "piqa: unsafe_code=maybe is not true or false"),
        ("piqa", "num_fewshot", "x", "piqa: num_fewshot=x is not a whole number or null"),
        ("piqa", "limit", 0, "piqa: limit=0 must be at least 1"),
    ],
)
def test_values_of_the_wrong_kind_are_one_line(task: str, setting: str, value, message: str):
    nodes = choices.nodes([task], own={task: {setting: value}})
    with pytest.raises(ConfigError, match=message):
        choices.built(nodes)


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
    with pytest.raises(ConfigError, match=r"piqa: unknown setting colour=1; there are task, num"):
        choices.built(nodes)
    nodes = choices.nodes(["gsm8k"], own={"gsm8k": {"colour": 1}})
    with pytest.raises(
        ConfigError, match=r"gsm8k: unknown setting colour=1; there are path, .*, samples, k, temp"
    ):
        choices.built(nodes)


class Refusing:
    def __init__(self, error: PlmError) -> None:
        self.error = error

    def check(self, subject: object) -> None:
        raise self.error


def test_what_stops_a_task_names_it_and_keeps_its_kind():
    tasks = {"b": Refusing(DataError("x.jsonl cannot be read"))}
    with pytest.raises(DataError, match=r"^b: x\.jsonl cannot be read$"):
        choices.check(None, tasks)
    # lm-eval's name themselves, and need not do so twice.
    tasks = {"b": Refusing(ConfigError("b: no such thing"))}
    with pytest.raises(ConfigError, match=r"^callbacks\.c\.tasks\.b: no such thing$"):
        choices.check(None, tasks, "callbacks.c.tasks.")


def test_evaluations_while_training_are_refused_by_their_keys():
    def refuse(message: str, task: str, items: bool = True, **settings: object) -> None:
        node = {"tasks": choices.nodes([task], own={task: settings})}
        callbacks = {"mine": node, "other": {"_target_": "x"}, "none": None}
        with pytest.raises(PlmError, match=rf"^callbacks\.mine\.tasks\.{message}"):
            choices.check_callbacks(callbacks, 300, items=items)

    refuse("exercises: k=4: pass@4 needs samples=4", "exercises", items=False, k=[4])
    refuse("exercises: unknown setting nope=1", "exercises", items=False, nope=1)
    refuse("gsm8k: nowhere.jsonl cannot be read", "gsm8k", path="nowhere.jsonl")
    small = {"families": {"gcd": {}}, "n": 1, "trained": []}
    refuse("exercises: max_new_tokens=300 leaves", "exercises", max_new_tokens=300, **small)
    fine = choices.nodes(["gsm8k"], own={"gsm8k": {"path": "nowhere.jsonl"}})
    choices.check_callbacks({"mine": {"tasks": fine}}, 300, items=False)
    choices.check_callbacks({"mine": {"tasks": {"several": {"tasks": ["a"]}}}}, 300)
