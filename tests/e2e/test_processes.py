"""Two processes train as one does, whatever shares the work out."""

import sys
from pathlib import Path

import pytest
import torch

from tests.e2e.conftest import Trainer, last_weights, metrics, reopened

pytestmark = pytest.mark.slow

# The checkpoint of the tests below lies between two rows of metrics.csv.
SETTINGS = (
    "scale.tokens.pretrain=8192", "micro_batch_size=4", "optimizer=adamw", "log_every_steps=5",
)  # fmt: skip


@pytest.fixture(scope="module")
def single(text: Path, data_dir: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    runs = tmp_path_factory.mktemp("single")
    Trainer(text, data_dir, runs).run("name=single", *SETTINGS)
    return runs / "single"


FROZEN = ("+phases.decay.trainable=[layers.0.*]", "+phases.constant.trainable=[layers.*.mlp.*]")


@pytest.fixture(scope="module")
def frozen(text: Path, data_dir: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    runs = tmp_path_factory.mktemp("frozen")
    Trainer(text, data_dir, runs).run("name=frozen", *FROZEN, *SETTINGS)
    return runs / "frozen"


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
    if strategy == "fsdp":
        (again / "status.json").unlink()
        out = trainer.run("name=again", "trainer=single", *more[2:], code=2)
        assert "was written by another strategy" in out


@pytest.mark.parametrize("strategy", ["ddp", "fsdp"])
def test_a_phase_may_freeze_weights(trainer: Trainer, frozen: Path, strategy: str) -> None:
    trainer.run("name=run", f"trainer={strategy}", *FROZEN, *SETTINGS)
    torch.testing.assert_close(losses(trainer.runs / "run"), losses(frozen), rtol=1e-4, atol=0)
    mine, theirs = last_weights(trainer.runs / "run"), last_weights(frozen)
    for name, value in theirs.items():
        torch.testing.assert_close(mine[name], value, rtol=1e-3, atol=1e-4)


def test_torchrun(trainer: Trainer, single: Path) -> None:
    launcher = (sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node=2")
    trainer.run("name=run", "trainer=ddp", *SETTINGS, launcher=launcher)
    torch.testing.assert_close(losses(trainer.runs / "run"), losses(single), rtol=1e-4, atol=0)


def test_torchrun_with_another_number_of_processes(trainer: Trainer) -> None:
    launcher = (sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node=2")
    out = trainer.run("name=run", *SETTINGS, launcher=launcher, code=1)
    assert out.count("2 processes were started, the configuration has trainer.devices=1") == 1
    assert not trainer.runs.exists()


def test_batch_that_ranks_cannot_share(trainer: Trainer) -> None:
    out = trainer.run("trainer=ddp", "trainer.devices=3", *SETTINGS, code=2)
    assert "cannot share evenly" in out
