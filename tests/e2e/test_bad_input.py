"""A user's mistake: one line that names the key and a way out, exit code 2, nothing written."""

import re
import subprocess
import sys
from pathlib import Path

import pytest

from tests.e2e.conftest import ROOT, Trainer
from train import main

CASES = {
    "unknown group": (["scael=nano"], ["scael", "scale"]),
    "unknown choice": (["scale=nanno"], ["nanno", "nano"]),
    "unknown key": (["model.hiden_size=64"], ["hiden_size", "hidden_size"]),
    "malformed override": (["model.hidden_size"], ["model.hidden_size"]),
    "odd rotary size": (["scale.qk_rope_head_dim=15"], ["qk_rope_head_dim", "15"]),
    "phase without tokens": (["phases.decay.tokens=0"], ["phases.decay.tokens", "0"]),
    "weights of nothing": (
        ["data.path=null", "phases.stable.mixture={prose: 0, code: 0, math: 0}"],
        ["phases.stable.mixture"],
    ),
    "window past the positions": (
        ["scale.max_position_embeddings=16"],
        ["phases", "max_position_embeddings"],
    ),
    "evaluation that cannot be": (
        [
            "+callbacks@callbacks.evaluation=evaluation",
            "callbacks.evaluation.tasks.exercises.k=[4]",
        ],
        ["callbacks.evaluation.tasks.exercises", "pass@4", "samples"],
    ),
    "a choice without its plus": (["rlvr=dapo"], ["rlvr is a group", "write +rlvr=dapo"]),
    "missing text": (["data.path=nowhere.txt"], ["nowhere.txt"]),
    "foreign target": (["optimizer._target_=os.system"], ["os.system", "trust"]),
    "missing init_from": (["init_from=nowhere"], ["init_from", "nowhere"]),
    "name that is no folder's": (["name='a b'"], ["name", "a b"]),
}


def told(out: str) -> str:
    """The one line that is not a progress of preparing data."""
    shown = (
        "preparing",
        "reading",
        "cleaning",
        "hashing",
        "splitting",
        "training the",
        "encoding",
        "what the data hold",
        "dropped",
        "warning: dropped",
    )
    lines = [line for line in out.splitlines() if line.strip() and not line.startswith(shown)]
    assert len(lines) == 1, out
    return lines[0]


@pytest.fixture
def refused(trainer: Trainer, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture):
    """Runs train.py in this process, for many processes take long; what it says."""

    def call(*overrides: str) -> str:
        monkeypatch.setattr(sys, "argv", trainer.arguments(*overrides))
        try:
            code = main()
        except SystemExit as error:
            code = error.code
        assert code == 2
        assert not trainer.runs.exists() or not list(trainer.runs.iterdir())
        said = capsys.readouterr()
        return told(said.out + said.err)

    return call


@pytest.mark.parametrize("case", CASES)
def test_one_line_and_exit_code_2(refused, case: str) -> None:
    overrides, words = CASES[case]
    line = refused(*overrides)
    assert all(word in line for word in words), line


def test_in_a_process_of_its_own(trainer: Trainer) -> None:
    assert "hidden_size" in told(trainer.run("model.hiden_size=64", code=2))
    assert not trainer.runs.exists()


def test_help_lists_every_choice(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(sys, "argv", ["train.py", "--help"])
    assert main() == 0
    shown = capsys.readouterr().out
    for path in (ROOT / "configs").rglob("*.yaml"):
        group = path.parent.relative_to(ROOT / "configs").as_posix()
        if group != ".":
            # Named with what it is for, and its choices in the line below.
            found = re.search(rf"^{group} +\S.*\n(.*)$", shown, re.MULTILINE)
            assert found and path.stem in found.group(1).replace(",", "").split(), path


def test_help_needs_neither_hydra_nor_torch() -> None:
    code = (
        "import sys, train; sys.argv = ['train.py', '--help']; train.main(); "
        "sys.exit(any(m in sys.modules for m in ('hydra', 'torch', 'lightning', 'omegaconf')))"
    )
    assert subprocess.run([sys.executable, "-c", code], cwd=ROOT, check=False).returncode == 0


def test_empty_text(refused, tmp_path: Path) -> None:
    empty = tmp_path / "empty.txt"
    empty.touch()
    assert "empty.txt" in refused(f"data.path={empty}")


def test_runs_dir_that_cannot_be_made(refused, tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    line = refused(f"runs_dir={tmp_path / 'file' / 'runs'}")
    assert "runs_dir" in line and "another" in line


@pytest.mark.slow
def test_weights_of_another_shape_are_named(trainer: Trainer, whole: Path) -> None:
    line = told(trainer.run(f"init_from={whole}", "scale.hidden_size=96", code=2).splitlines()[-1])
    assert "norm.weight" in line and "[96]" in line
    assert not list(trainer.runs.iterdir())
