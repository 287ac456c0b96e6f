"""Two processes train as one does, whatever shares the work out."""

import sys

import pytest
import torch

from tests.e2e.conftest import Trainer, last_weights, metrics

pytestmark = pytest.mark.slow

SETTINGS = ("scale.tokens.pretrain=8192", "micro_batch_size=4", "optimizer=adamw")


@pytest.fixture
def single(trainer: Trainer) -> list[float]:
    trainer.run("name=single", *SETTINGS)
    return [float(row["loss"]) for row in metrics(trainer.runs / "single") if row["loss"]]


def losses(trainer: Trainer, name: str) -> list[float]:
    return [float(row["loss"]) for row in metrics(trainer.runs / name) if row["loss"]]


@pytest.mark.parametrize("strategy", ["ddp", "fsdp", "deepspeed_zero2"])
def test_two_processes_equal_one(trainer: Trainer, single: list[float], strategy: str) -> None:
    if strategy.startswith("deepspeed"):
        pytest.importorskip("deepspeed")
    trainer.run(f"name={strategy}", f"trainer={strategy}", "trainer.devices=2", *SETTINGS)
    found = losses(trainer, strategy)
    assert len(found) == len(single)
    # Gradients are added in another order: the last digits differ, and grow with the steps.
    torch.testing.assert_close(torch.tensor(found), torch.tensor(single), rtol=1e-4, atol=0)
    if strategy == "ddp":
        mine, theirs = last_weights(trainer.runs / strategy), last_weights(trainer.runs / "single")
        for name, value in theirs.items():
            torch.testing.assert_close(mine[name], value, rtol=1e-3, atol=1e-4)


def test_torchrun(trainer: Trainer, single: list[float]) -> None:
    launcher = (sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node=2")
    trainer.run("name=run", "trainer=ddp", *SETTINGS, launcher=launcher)
    found = losses(trainer, "run")
    torch.testing.assert_close(torch.tensor(found), torch.tensor(single), rtol=1e-4, atol=0)


@pytest.mark.parametrize("strategy", ["ddp", "fsdp", "deepspeed_zero2"])
def test_goes_on_where_it_stood(trainer: Trainer, strategy: str) -> None:
    import shutil

    if strategy.startswith("deepspeed"):
        pytest.importorskip("deepspeed")
    more = (f"trainer={strategy}", "trainer.devices=2", "checkpoint.every_tokens=4096", *SETTINGS)
    trainer.run("name=whole", *more)
    whole = trainer.runs / "whole"
    shutil.copytree(whole, trainer.runs / "again")
    again = trainer.runs / "again"
    (again / "status.json").unlink()
    for path in sorted((again / "checkpoints").glob("tokens-*"))[1:]:
        shutil.rmtree(path)
    out = trainer.run("name=again", *more)
    assert "going on at" in out
    assert metrics(whole) == metrics(again)


def test_batch_that_ranks_cannot_share(trainer: Trainer) -> None:
    out = trainer.run("trainer=ddp", "trainer.devices=3", *SETTINGS, code=2)
    assert "cannot share evenly" in out
