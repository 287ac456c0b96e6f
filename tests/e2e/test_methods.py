"""A user's own methods, loggers and callbacks through train.py, with no file of ours edited."""

import json
import shutil
from pathlib import Path

import pytest
from safetensors.torch import load_file

from tests.e2e.conftest import Trainer, last_weights, metrics
from tests.e2e.test_resume import same

pytestmark = pytest.mark.slow

LAB = Path(__file__).resolve().parents[1] / "contracts"
METHODS = (
    f"hydra.searchpath=[file://{LAB}/mylab/configs]",
    "trust=[mylab]",
    "model/attention=decaying_mean",
    "+transform@phases.decay.transforms.wider=widen",
    "+regularizer@phases.stable.regularizers.few=few_active",
    "+model/head@model.heads.after_next=after_next",
    "+loss@losses.z_loss=z_loss",
    "+callbacks@callbacks.average=average",
    "scale.tokens.pretrain=16384",
    "checkpoint.every_tokens=2048",
    "checkpoint.keep_last=30",
)


def test_methods_of_a_users_package(trainer: Trainer, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PYTHONPATH", str(LAB))
    trainer.run("name=whole", *METHODS, "samples.number=1")
    whole = trainer.runs / "whole"
    rows = metrics(whole)
    assert float(rows[-1]["aux/z_loss"]) > 0
    assert "aux/regularizers.few" in rows[-1]
    assert "aux/heads.after_next" in rows[-1]
    weights = last_weights(whole)
    # Widened by 8 at the start of the decay, and trained and decoded so.
    assert weights["layers.0.mlp.up_proj.weight"].shape[0] == 128 + 8
    last = sorted((whole / "checkpoints").glob("tokens-*"))[-1]
    assert load_file(last / "average.safetensors").keys() == weights.keys()

    again = trainer.runs / "again"
    shutil.copytree(whole, again)
    (again / "status.json").unlink()
    meta = [json.loads((p / "meta.json").read_text()) for p in again.glob("checkpoints/tokens-*")]
    after = min(m["tokens_seen"] for m in meta if m["transforms"])
    for path in again.glob("checkpoints/tokens-*"):
        if int(path.name.removeprefix("tokens-")) > after:
            shutil.rmtree(path)
    assert "going on at" in trainer.run("name=again", *METHODS, "samples.number=1")
    assert same(last_weights(again), weights)
    assert metrics(again) == rows


def test_loggers_and_profiler(trainer: Trainer) -> None:
    trainer.run(
        "name=logged",
        "scale.tokens.pretrain=12288",
        "+logger@loggers.tensorboard=tensorboard",
        "+logger@loggers.wandb=wandb",
        "loggers.wandb.offline=true",
        "+callbacks@callbacks.profiler=profiler",
    )
    run = trainer.runs / "logged"
    assert list(run.glob("logs/tensorboard/events*"))
    assert list(run.glob("logs/wandb/offline-run-*"))
    assert len((run / "wandb_id").read_text()) == 12
    assert (run / "profile" / "trace.json").stat().st_size > 1000
