"""Two processes train as one does, whatever shares the work out."""

import sys
from pathlib import Path

import pytest
import torch

from tests.e2e.conftest import Trainer, last_weights, metrics, reopened

pytestmark = pytest.mark.slow

SETTINGS = ("scale.tokens.pretrain=8192", "micro_batch_size=4", "optimizer=adamw")


@pytest.fixture(scope="module")
def single(text: Path, data_dir: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    runs = tmp_path_factory.mktemp("single")
    Trainer(text, data_dir, runs).run("name=single", *SETTINGS)
    return runs / "single"


def losses(run: Path) -> torch.Tensor:
    return torch.tensor([float(row["loss"]) for row in metrics(run) if row["loss"]])


@pytest.mark.parametrize("strategy", ["ddp", "fsdp", "deepspeed_zero2"])
def test_two_processes_equal_one_and_go_on(trainer: Trainer, single: Path, strategy: str) -> None:
    if strategy.startswith("deepspeed"):
        pytest.importorskip("deepspeed")
    more = (f"trainer={strategy}", "trainer.devices=2", "checkpoint.every_tokens=4096", *SETTINGS)
    trainer.run("name=run", *more)
    run = trainer.runs / "run"
    # Gradients are added in another order: the last digits differ, and grow with the steps.
    torch.testing.assert_close(losses(run), losses(single), rtol=1e-4, atol=0)
    mine, theirs = last_weights(run), last_weights(single)
    for name, value in theirs.items():
        torch.testing.assert_close(mine[name], value, rtol=1e-3, atol=1e-4)
    again = reopened(run, trainer.runs / "again", keep=1)
    assert "going on at" in trainer.run("name=again", *more)
    assert metrics(run) == metrics(again)


def test_torchrun(trainer: Trainer, single: Path) -> None:
    launcher = (sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node=2")
    trainer.run("name=run", "trainer=ddp", *SETTINGS, launcher=launcher)
    torch.testing.assert_close(losses(trainer.runs / "run"), losses(single), rtol=1e-4, atol=0)


def test_batch_that_ranks_cannot_share(trainer: Trainer) -> None:
    out = trainer.run("trainer=ddp", "trainer.devices=3", *SETTINGS, code=2)
    assert "cannot share evenly" in out
