"""scripts/compare.py runs=[a,b]: a table, a JSON, and one line for what cannot be compared."""

import json
from pathlib import Path

import pytest

from plm.evaluation import stored
from plm.evaluation.common import Result
from scripts import compare as script


def store(run: Path, bits: str, task: str = "t", name: str = "e", **changes) -> Path:
    items = [
        {"index": i, "id": f"i{i}", "group": "", "correct": [bit == "1"]}
        for i, bit in enumerate(bits)
    ]
    settings = {"seed": 0, "k": [1], **changes.pop("settings", {})}
    about = {"time": 1.0, **changes.pop("about", {})}
    told = Result({}, items, settings, "d", changes.pop("prompt", "text"), **changes)
    return stored.write(run / "evaluations" / f"{name}.json", about, {task: told})


@pytest.fixture
def runs(tmp_path: Path) -> tuple[Path, Path]:
    store(tmp_path / "a", "1100000000")
    store(tmp_path / "b", "1011111100", prompt="chat")
    return tmp_path / "a", tmp_path / "b"


def test_table_and_json(runs, capsys):
    first, second = runs
    assert script.main([f"runs=[{first},{second}]"]) == 0
    said = capsys.readouterr().out
    row = next(line for line in said.splitlines() if line.startswith("t "))
    assert "accuracy" in row and "0.2000" in row and "0.7000" in row and "+0.5000" in row
    assert "mcnemar 1:6" in row and "0.125" in row and row.endswith("10")
    assert "note: t: prompted by text and chat" in said
    told = json.loads((second / "comparisons/comparison-a-b.json").read_text())
    (pair,) = told["pairs"]
    assert pair["figures"][0]["p"] == 0.125 and pair["figures"][0]["only_second"] == 6
    assert pair["evaluations"][str(first)]["t"]["time"] == 1.0


@pytest.mark.parametrize(
    ("first", "second", "note"),
    [
        ({"weights": "last"}, {"weights": "average"}, "weights are last and average"),
        # Evaluated in training: no weights are named, and no autocast is said by its absence.
        ({}, {"weights": "average"}, "weights are last and average"),
        ({"weights": "last"}, {"precision": "32-true"}, None),
        ({}, {"precision": "bf16-mixed"}, "precision is the dtype's own and bf16-mixed"),
        (
            {"conditions": {"dtype": "float32"}},
            {"conditions": {"dtype": "bfloat16"}},
            "computed in float32 and bfloat16",
        ),
    ],
)
def test_other_conditions_are_noted(first, second, note: str | None, tmp_path: Path, capsys):
    store(tmp_path / "a", "1100", about=first)
    store(tmp_path / "b", "1010", about=second)
    assert script.main([f"runs=[{tmp_path}/a,{tmp_path}/b]"]) == 0
    said = [line for line in capsys.readouterr().out.splitlines() if line.startswith("note:")]
    assert said == ([f"note: t: {note}"] if note else [])


def test_several_against_the_first(runs, tmp_path: Path, capsys):
    store(tmp_path / "c", "1100000000")
    out = tmp_path / "out.json"
    told = ",".join(str(tmp_path / name) for name in "abc")
    assert script.main([f"runs=[{told}]", f"out={out}"]) == 0
    assert [p["second"][-1] for p in json.loads(out.read_text())["pairs"]] == ["b", "c"]
    assert capsys.readouterr().out.count("first: ") == 2


def test_files_of_single_evaluations(runs, tmp_path: Path, capsys):
    older = store(tmp_path / "a", "0" * 10, name="older")
    second = tmp_path / "b/evaluations/e.json"
    assert script.main([f"runs=[{older},{second}]", "tasks=[t]"]) == 0
    assert "mcnemar 0:7" in capsys.readouterr().out


def test_mistakes_are_one_line(runs, tmp_path: Path, capsys):
    first, second = runs
    store(tmp_path / "seeded", "1" * 10, settings={"seed": 1})
    store(tmp_path / "fewer", "1" * 9)
    store(tmp_path / "other", "1" * 10, task="u")
    (tmp_path / "empty").mkdir()
    cases = {
        f"runs=[{first}]": "two run folders, or evaluation files, at least",
        f"runs=[{first},{first}]": "the same one twice",
        f"runs=[{first},{tmp_path}/none]": "none does not exist",
        f"runs=[{first},{tmp_path}/empty]": "no stored evaluations",
        f"runs=[{first},{tmp_path}/seeded]": "t: the two were not evaluated alike (seed=0 and 1)",
        f"runs=[{first},{tmp_path}/fewer]": "t: the two are on different items (10 and 9",
        f"runs=[{first},{tmp_path}/other]": "no task in common",
    }
    for argument, message in cases.items():
        assert script.main([argument]) == 2, argument
        said = capsys.readouterr()
        assert message in said.err and len(said.err.splitlines()) == 1 and not said.out
    assert script.main([f"runs=[{first},{second}]", "tasks=[u]"]) == 2
    assert "has no evaluation of u" in capsys.readouterr().err
    assert script.main([f"runs=[{first},{second}]", "arm.a="]) == 2
    assert "unknown setting 'arm.a='" in capsys.readouterr().err
