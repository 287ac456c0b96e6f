"""Whole runs at scale=test in processes of their own, on a small text made here."""

import csv
import os
import random
import shutil
import subprocess
from pathlib import Path

import pytest

from tests import forking

ROOT = Path(__file__).resolve().parents[2]
WORDS = "the model reads a book and writes of it with care while rain falls on the old town".split()


@pytest.fixture(scope="session")
def text(tmp_path_factory: pytest.TempPathFactory) -> Path:
    draw = random.Random(0)
    lines = [" ".join(draw.choice(WORDS) for _ in range(60)) + f" {i}." for i in range(300)]
    path = tmp_path_factory.mktemp("text") / "book.txt"
    path.write_text("\n\n".join(lines), encoding="utf-8")
    return path


@pytest.fixture(scope="session")
def data_dir(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("data")


class Trainer:
    """Starts `train.py +experiment=<experiment> scale=test` with overrides."""

    def __init__(
        self, text: Path, data_dir: Path, runs: Path, experiment: str = "plm_pretrain"
    ) -> None:
        self.text, self.data_dir, self.runs = text, data_dir, runs
        self.experiment = experiment

    def arguments(self, *overrides: str) -> list[str]:
        """The script and what it is given."""
        return [
            str(ROOT / "train.py"),
            f"+experiment={self.experiment}",
            "scale=test",
            f"data.path={self.text}",
            f"data.dir={self.data_dir}",
            f"runs_dir={self.runs}",
            "validation.windows=4",
            "validation.baselines=false",
            "samples.number=0",
            "log_every_steps=1",
            *overrides,
        ]

    def command(self, *overrides: str, launcher: tuple[str, ...] = ()) -> list[str]:
        return [*(launcher or forking.python()), *self.arguments(*overrides)]

    def start(self, *overrides: str, launcher: tuple[str, ...] = ()) -> subprocess.Popen:
        env = {**os.environ, "OMP_NUM_THREADS": "1"}
        return subprocess.Popen(
            self.command(*overrides, launcher=launcher),
            env=env,
            # Anywhere but in the checkout, which need not be installed.
            cwd=self.text.parent,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
        )

    def run(self, *overrides: str, launcher: tuple[str, ...] = (), code: int = 0) -> str:
        process = self.start(*overrides, launcher=launcher)
        out, _ = process.communicate(timeout=240)
        assert process.returncode == code, out
        return out


@pytest.fixture
def trainer(text: Path, data_dir: Path, tmp_path: Path) -> Trainer:
    return Trainer(text, data_dir, tmp_path / "runs")


CHECKPOINTS = "checkpoint.every_tokens=4096"


@pytest.fixture(scope="session")
def whole(text: Path, data_dir: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An undisturbed run with a checkpoint every 4,096 tokens; tests take copies of it."""
    runs = tmp_path_factory.mktemp("whole")
    Trainer(text, data_dir, runs).run("name=whole", CHECKPOINTS, "checkpoint.keep_last=30")
    return runs / "whole"


def reopened(run: Path, target: Path, keep: int | None = None) -> Path:
    """A copy of a finished run that looks stopped, with its first `keep` checkpoints."""
    shutil.copytree(run, target)
    (target / "status.json").unlink()
    if keep is not None:
        for path in sorted((target / "checkpoints").glob("tokens-*"))[keep:]:
            shutil.rmtree(path)
    return target


def metrics(run: Path) -> list[dict[str, str]]:
    """Rows of a run's metrics.csv, without what depends on the clock and on memory."""
    timed = ("tokens_per_s", "mfu", "peak_gib", "data_wait_s", "elapsed_s")
    with (run / "metrics.csv").open(encoding="utf-8") as file:
        return [{k: v for k, v in row.items() if k not in timed} for row in csv.DictReader(file)]


def last_weights(run: Path) -> dict:
    """Weights of a run's last checkpoint."""
    from plm.checkpoint import read_weights

    found = read_weights(sorted((run / "checkpoints").glob("tokens-*"))[-1])
    # A copy: the file is mapped, and tests cut files short.
    return {name: value.clone() for name, value in found.items()}
