"""scripts/evaluate.py on an exported model: figures, records, and one line for mistakes."""

import json
from pathlib import Path

import pytest
import torch

from plm.errors import ConfigError, DataError
from plm.export.hf import hf
from plm.formats.chat import chatml
from plm.formats.common import About
from scripts import evaluate as script
from tests.model.common import tiny


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    from plm.data import tokenizer as bpe

    marks = ["<|endoftext|>", "<|im_start|>", "<|im_end|>"]
    tokenizer = bpe.train(["some text of a town\n"] * 3, vocab_size=290, special_tokens=marks)
    about = About(chat_template=chatml(tokenizer))
    sizes = ("scale.vocab_size=300", "scale.max_position_embeddings=256")
    model = tiny(*sizes, dtype=torch.float32)
    return hf(model, tokenizer, tmp_path_factory.mktemp("hf") / "out", about=about)


@pytest.fixture
def problems(tmp_path: Path) -> Path:
    path = tmp_path / "problems.jsonl"
    rows = [{"question": f"{n} and {n}?", "answer": f"#### {2 * n}"} for n in range(5)]
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return path


def test_arguments():
    chosen, own = script.split(
        ["run=a", "tasks=[x,y]", "k=[1,8]", "n=3", "x.path=b.gz", "x.families.gcd={max_value: 9}"]
    )
    assert chosen["tasks"] == ["x", "y"] and chosen["k"] == [1, 8] and chosen["n"] == 3
    assert own == {"x": {"path": "b.gz", "families.gcd": {"max_value": 9}}}
    with pytest.raises(ConfigError, match=r"unknown setting 'sample=3'; did you mean samples=…\?"):
        script.split(["sample=3"])


@pytest.mark.parametrize("prompt", ["text", "chat"])
def test_end_to_end(folder: Path, problems: Path, tmp_path: Path, capsys, prompt: str):
    arguments = [
        f"run={folder}",
        "tasks=[gsm8k,exercises]",
        f"gsm8k.path={problems}",
        "exercises.families={gcd: {}, lcm: {max_value: 300}}",
        "n=2",
        "limit=4",
        "samples=3",
        "k=[1,2]",
        "temperature=0.7",
        "max_new_tokens=8",
        "device=cpu",
        f"prompt={prompt}",
        f"out={tmp_path}/a.json",
    ]
    assert script.main(arguments) == 0
    said = capsys.readouterr().out
    assert "pass@2" in said and "accuracy/gcd" in said and f"prompted by {prompt}" in said
    told = json.loads((tmp_path / "a.json").read_text())
    task = told["tasks"]["gsm8k"]
    assert task["figures"]["accuracy"]["n"] == len(task["items"]) == 4
    assert task["prompt"] == prompt and task["settings"]["temperature"] == 0.7
    assert len(task["items"][0]["texts"]) == 3 and len(task["digest"]) == 64
    assert "unfinished" not in told and list(told["tasks"]) == ["gsm8k", "exercises"]
    assert told["conditions"]["torch"] == torch.__version__ and told["command"].endswith("a.json")
    # The same command draws the same, and does not write over what is there.
    assert script.main(arguments) == 2
    assert "a.json exists already" in capsys.readouterr().err
    assert script.main([*arguments[:-1], f"out={tmp_path}/b.json"]) == 0
    again = json.loads((tmp_path / "b.json").read_text())
    assert again["tasks"] == told["tasks"]


def test_with_an_interpreter(folder: Path, problems: Path, tmp_path: Path, capsys):
    arguments = [f"run={folder}", "tasks=[gsm8k]", f"gsm8k.path={problems}", "samples=2"]
    arguments += ["temperature=1", "max_new_tokens=12"]
    assert script.main([*arguments, f"out={tmp_path}/plain.json"]) == 0
    turns = ["environment=interpreter", "environment.max_turns=2"]
    assert script.main([*arguments, *turns, f"out={tmp_path}/turns.json"]) == 0
    plain, task = (
        json.loads((tmp_path / f"{name}.json").read_text())["tasks"]["gsm8k"]
        for name in ("plain", "turns")
    )
    # The model knows no programs: what it says is what it says alone.
    assert [item["texts"] for item in task["items"]] == [item["texts"] for item in plain["items"]]
    environment = task["settings"].pop("environment")
    assert environment == {"name": "interpreter", "max_turns": 2}
    assert task["settings"] == plain["settings"]


def test_refinements_end_to_end(folder: Path, problems: Path, tmp_path: Path, capsys):
    from scripts import compare_runs

    arguments = [
        f"run={folder}",
        "tasks=[gsm8k,held_out]",
        f"gsm8k.path={problems}",
        "refine=2",
        "template={question}\n{answer}\nBetter:",
        "limit=3",
        "temperature=1",
        "max_new_tokens=6",
    ]
    # What generates no answers stays as it is, and here that has no data.
    assert script.main([*arguments, f"out={tmp_path}/a.json"]) == 2
    assert "name held_out.data=" in capsys.readouterr().err
    arguments[1] = "tasks=[gsm8k]"
    assert script.main([*arguments, f"out={tmp_path}/a.json"]) == 0
    said = capsys.readouterr().out
    assert "best_of_independent" in said and "turn 2 against turn 0: alone right on 0 and" in said
    task = json.loads((tmp_path / "a.json").read_text())["tasks"]["gsm8k"]
    assert task["settings"]["turns"] == 2 and len(task["items"]) == 3
    assert [len(item["turns"]["texts"]) for item in task["items"]] == [3, 3, 3]
    assert script.main([*arguments, "seed=1", f"out={tmp_path}/b.json"]) == 0
    with pytest.raises(ConfigError, match="seed=0 and 1"):
        compare_runs.run([f"runs=[{tmp_path}/a.json,{tmp_path}/b.json]"])
    assert script.main([*arguments, f"out={tmp_path}/c.json"]) == 0
    lines = compare_runs.run([f"runs=[{tmp_path}/a.json,{tmp_path}/c.json]"])
    assert sum(" turn_2 " in line and "mcnemar 0:0" in line for line in lines) == 1


def test_a_task_that_refines_takes_the_template_of_the_command():
    names = "tasks=[exercises_sft_refined,gsm8k]"
    tasks = script.tasks_of(*script.split([names, "template=short", "n=3"]))
    assert tasks["exercises_sft_refined"].named == "short"
    assert tasks["exercises_sft_refined"].task.settings["n"] == 3
    assert not hasattr(tasks["gsm8k"], "turns")


def test_mistakes_are_one_line_and_write_nothing(folder: Path, problems: Path, tmp_path, capsys):
    good = [f"run={folder}", "tasks=[gsm8k]", f"gsm8k.path={problems}", f"out={tmp_path}/x.json"]
    cases = [
        ([], "tasks=[…] is empty"),
        (["tasks=[gsm8k]"], "run=<run folder"),
        (["tasks=[gsm9k]"], "no task 'gsm9k'; did you mean gsm8k"),
        (["run=nowhere", "tasks=[gsm8k]"], "run=nowhere does not exist"),
        (good[:3], "out=<file.json> is missing"),
        ([*good[:3], f"out={tmp_path}"], "must be the name of a .json file"),
        ([*good, "gsm8k.path=nowhere.jsonl"], "nowhere.jsonl cannot be read"),
        ([*good, "prompt=talk"], "prompt=talk is not one of"),
        ([*good, "weights=best"], "weights=best is not last or average"),
        ([*good, "device=tpu"], "device=tpu"),
        ([*good, "dtype=int8"], "dtype=int8 is not one of"),
        ([*good, "rows=0"], "rows=0 must be at least 1"),
        ([*good, "samples=2"], "samples=2 at temperature=0"),
        ([*good, "n=2"], "n=2: none of gsm8k has the setting n"),
        ([*good, "k=[1"], "k=[1: "),
        ([*good[:1], "tasks=[exercises]", "n=abc", good[3]], "exercises: n=abc is not a whole"),
        ([*good, "gsm8k.path.x=1"], "gsm8k.path.x=1: gsm8k.path="),
        ([*good, "gsm8k.shots_seed=x"], "gsm8k: shots_seed=x is not a whole number"),
        ([*good, "gsm8k.colour=1"], "gsm8k: unknown setting colour=1"),
        ([*good, "max_new_tokens=300"], "gsm8k: max_new_tokens=300 leaves no room for a prompt in"),
        ([*good, "refine=-1"], "refine=-1 is negative"),
        ([*good, "refine=one"], "refine=one is not a whole number"),
        ([*good, "refine=1", "samples=2", "temperature=1"], "gsm8k: samples=2: a refined task"),
        ([*good, "refine=1", "prompt=text"], "gsm8k: the model is prompted with text, and"),
        ([*good, "refine=1", "template=shrot"], "gsm8k: template='shrot' is no text with"),
        ([*good, "environment=shell"], "environment=shell: there are interpreter, single"),
        ([*good, "environment.max_turns=2"], "environment.max_turns: set environment=interpreter"),
        ([*good, "refine=1", "environment=single"], "refine=1: answers that have turns already"),
        ([*good, "template=short"], "template=short: none of gsm8k has the setting template"),
        ([*good[:1], "tasks=[piqa]", "refine=1", good[3]], "refine=1: none of piqa has answers"),
        ([*good, "piqa.limit=1"], "piqa.…: no task of this name"),
        ([*good[:1], "tasks=[held_out]", good[3]], "name held_out.data="),
    ]
    for arguments, message in cases:
        assert script.main(arguments) == 2, arguments
        said = capsys.readouterr()
        assert message in said.err and len(said.err.splitlines()) == 1, said.err
        assert not said.out
    assert not (tmp_path / "x.json").exists()


@pytest.mark.parametrize("error", [KeyboardInterrupt, DataError("no more"), RuntimeError("a bug")])
def test_finished_tasks_are_kept_when_a_later_one_ends_early(
    folder: Path, problems: Path, tmp_path: Path, capsys, monkeypatch, error
):
    from plm.evaluation.generated import Generated

    real = Generated.run

    def broken(self, *arguments):
        if "families" in self.settings:
            raise error
        return real(self, *arguments)

    monkeypatch.setattr(Generated, "run", broken)
    arguments = [
        f"run={folder}",
        "tasks=[gsm8k,exercises,exercises_new]",
        f"gsm8k.path={problems}",
        "n=1",
        "limit=2",
        "max_new_tokens=4",
        f"out={tmp_path}/a.json",
    ]
    if isinstance(error, RuntimeError):
        with pytest.raises(RuntimeError, match="a bug"):
            script.main(arguments)
    else:
        assert script.main(arguments) == (75 if error is KeyboardInterrupt else 2)
    said = capsys.readouterr().err
    assert f"ended early; {tmp_path}/a.json holds gsm8k; for the rest: " in said
    assert "tasks=[exercises,exercises_new], and no name or out that is there" in said
    told = json.loads((tmp_path / "a.json").read_text())
    assert list(told["tasks"]) == ["gsm8k"] and len(told["tasks"]["gsm8k"]["items"]) == 2
    assert told["unfinished"] == ["exercises", "exercises_new"] and told["time"] > 0
    assert not list(tmp_path.glob(".*"))


def test_help_comes_at_once(capsys):
    assert script.main(["--help"]) == 0
    said = capsys.readouterr().out
    assert "Tasks: arc_challenge" in said and "temperature" in said
