"""Evaluation in and after a run: weights stay as they were, figures are stored and compared."""

import json
import subprocess
from pathlib import Path

import pytest

from tests import forking
from tests.e2e.conftest import CHECKPOINTS, ROOT, Trainer, last_weights, metrics, reopened
from tests.e2e.test_resume import same

pytestmark = pytest.mark.slow

EVALUATED = (
    "+callbacks@callbacks.evaluation=evaluation",
    "+task@callbacks.evaluation.tasks.held_out=held_out",
    "callbacks.evaluation.every_tokens=8192",
    "callbacks.evaluation.tasks.held_out.windows=4",
    "callbacks.evaluation.tasks.exercises.n=1",
    "callbacks.evaluation.tasks.exercises.samples=2",
    "callbacks.evaluation.tasks.exercises.temperature=1.0",
    "callbacks.evaluation.tasks.exercises.max_new_tokens=8",
)


@pytest.fixture(scope="module")
def evaluated(text: Path, data_dir: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """As `whole`, but evaluated on the way."""
    runs = tmp_path_factory.mktemp("evaluated")
    trainer = Trainer(text, data_dir, runs)
    trainer.run("name=evaluated", CHECKPOINTS, "checkpoint.keep_last=30", *EVALUATED)
    return runs / "evaluated"


def stored(run: Path) -> list[dict]:
    return [json.loads(p.read_text()) for p in sorted((run / "evaluations").glob("*.json"))]


def without(rows: list[dict[str, str]]) -> list[dict[str, str]]:
    return [{k: v for k, v in row.items() if not k.startswith("eval/")} for row in rows]


def command(script: str, *arguments: str, cwd: Path, code: int = 0) -> str:
    done = subprocess.run(
        [*forking.python(), str(ROOT / "scripts" / script), *arguments],
        cwd=cwd,
        capture_output=True,
        text=True,
        timeout=240,
        check=False,
    )
    assert done.returncode == code, done.stdout + done.stderr
    return done.stdout + done.stderr


def test_the_run_is_bit_for_bit_the_one_without(whole: Path, evaluated: Path) -> None:
    assert same(last_weights(whole), last_weights(evaluated))
    assert without(metrics(evaluated)) == metrics(whole)
    assert "<h2>Evaluations</h2><p class" not in (evaluated / "report.html").read_text()


def test_figures_are_stored_as_columns_files_and_summary(evaluated: Path) -> None:
    rows = [row for row in metrics(evaluated) if row["eval/exercises/accuracy"]]
    told = stored(evaluated)
    assert [int(r["tokens"]) for r in rows] == [t["tokens_seen"] for t in told]
    assert len(told) == 5 and told[-1]["tokens_seen"] % 8192
    for row, one in zip(rows, told, strict=True):
        figures = one["tasks"]["held_out"]["figures"]
        for name in row:
            if name.startswith("eval/held_out/loss/"):
                source = name.removeprefix("eval/held_out/loss/")
                assert float(row[name]) == pytest.approx(figures[f"loss/{source}"]["value"])
                assert float(row[name]) == pytest.approx(
                    float(row[f"val/{source}/loss"] or row[name]), rel=1e-5
                )
    summary = json.loads((evaluated / "summary.json").read_text())["evaluations"]
    last = told[-1]["tasks"]["exercises"]["figures"]["accuracy"]
    assert summary["exercises"]["accuracy"]["value"] == last["value"]


def test_stopped_and_gone_on_is_the_undisturbed_one(trainer: Trainer, evaluated: Path) -> None:
    run = reopened(evaluated, trainer.runs / "again", keep=4)
    before = stored(evaluated)
    for path in sorted((run / "evaluations").glob("*.json"))[2:]:
        path.unlink()
    trainer.run("name=again", CHECKPOINTS, "checkpoint.keep_last=30", *EVALUATED)
    assert same(last_weights(run), last_weights(evaluated))
    assert metrics(run) == metrics(evaluated)
    assert [t["tasks"] for t in stored(run)] == [t["tasks"] for t in before]


def test_two_ranks_share_the_items(trainer: Trainer, evaluated: Path) -> None:
    trainer.run("name=two", "trainer=ddp", "trainer.devices=2", *EVALUATED)
    one, two = stored(evaluated), stored(trainer.runs / "two")
    assert two[-1]["ranks"] == 2
    for alone, shared in zip(one, two, strict=True):
        assert alone["tokens_seen"] == shared["tokens_seen"]
        for task, told in alone["tasks"].items():
            other = shared["tasks"][task]
            assert other["digest"] == told["digest"]
            assert [r["id"] for r in other["items"]] == [r["id"] for r in told["items"]]
            for name, figure in told["figures"].items():
                assert figure["n"] == other["figures"][name]["n"]
        losses = [e["tasks"]["held_out"]["figures"]["loss"]["value"] for e in (alone, shared)]
        # Gradients are added up in another order.
        assert losses[0] == pytest.approx(losses[1], abs=2e-3)


def test_afterwards_and_compared(trainer: Trainer, whole: Path, evaluated: Path) -> None:
    first = reopened(whole, trainer.runs / "first")
    settings = ["held_out.windows=4", "exercises.n=1", "samples=2", "temperature=1.0"]
    out = command(
        "evaluate.py", f"run={first}", "tasks=[held_out,exercises]", *settings,
        "max_new_tokens=8", "name=after", cwd=trainer.text.parent,
    )  # fmt: skip
    assert "accuracy" in out and f"report: {first}/report.html" in out
    assert "Evaluations" in (first / "report.html").read_text()
    # The same weights as in the run, through the checkpoint: the same answers.
    after = json.loads((first / "evaluations/after.json").read_text())["tasks"]
    inside = stored(evaluated)[-1]["tasks"]
    assert after["exercises"]["items"] == inside["exercises"]["items"]
    assert after["held_out"]["digest"] == inside["held_out"]["digest"]
    out = command("compare.py", f"runs=[{evaluated},{first}]", cwd=trainer.text.parent)
    assert "+0.0000" in out and "normal" in out
    out = command("compare.py", f"runs=[{evaluated},{whole}]", cwd=trainer.text.parent, code=2)
    assert "no stored evaluations" in out
