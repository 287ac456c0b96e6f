"""A sweep of four jobs, and sweeps with a failing one."""

import pytest

from tests.e2e.conftest import Trainer

pytestmark = pytest.mark.slow


def test_four_jobs_four_folders_one_table(trainer: Trainer) -> None:
    out = trainer.run(
        "-m", "sweep=lr", "scale.peak_lr.pretrain=1e-3,2e-3", "seed=range(2)",
        "scale.tokens.pretrain=4096",
    )  # fmt: skip
    folders = sorted(path for path in trainer.runs.iterdir() if (path / "report.html").exists())
    assert len(folders) == 4
    table = [line for line in out.splitlines() if line.startswith("scale.peak_lr.pretrain=")]
    assert len(table) == 4
    for line in table:
        assert "seed=" in line
        assert str(trainer.runs) in line


def test_failed_job_is_told_and_the_others_run(trainer: Trainer) -> None:
    out = trainer.run("-m", "clip_norm=1.0,0.5", "scale.tokens.pretrain=4096,0", code=1)
    assert "must be a whole number" in out
    assert sum((path / "report.html").exists() for path in trainer.runs.iterdir()) == 2
