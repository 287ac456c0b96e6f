"""Loggers beside metrics.csv, on whole runs without a network."""

import struct
from pathlib import Path

import pytest

from tests.e2e.conftest import CHECKPOINTS, Trainer, reopened

pytestmark = pytest.mark.slow


BLOCK = 32768


def wandb_records(run: Path) -> list:
    """What the run's offline files hold, in the order of writing: LevelDB's log format."""
    from wandb.proto import wandb_internal_pb2

    found = []
    for path in sorted((run / "logs" / "wandb").glob("offline-run-*/*.wandb")):
        data, at, whole = path.read_bytes(), 7, b""
        while at + 7 <= len(data):
            if BLOCK - at % BLOCK < 7:
                at += BLOCK - at % BLOCK
                continue
            size, kind = struct.unpack("<HB", data[at + 4 : at + 7])
            whole += data[at + 7 : at + 7 + size]
            at += 7 + size
            # 1: whole, 4: the last part.
            if kind in (1, 4):
                record = wandb_internal_pb2.Record()
                record.ParseFromString(whole)
                found.append(record)
                whole = b""
    return found


def test_resumed_run_goes_on_in_both(trainer: Trainer, whole: Path) -> None:
    run = reopened(whole, trainer.runs / "again", keep=2)
    (run / "wandb_id").write_text("abcdef012345")
    trainer.run(
        "+logger@loggers.wandb=wandb", "+logger@loggers.tensorboard=tensorboard", "name=again",
        CHECKPOINTS, "checkpoint.keep_last=30",
    )  # fmt: skip
    records = wandb_records(run)
    runs = [record.run for record in records if record.WhichOneof("record_type") == "run"]
    assert {one.run_id for one in runs} == {"abcdef012345"}
    assert runs[0].run_group == "pretrain" and list(runs[0].tags) == ["pretrain"]
    artifact = next(
        record.artifact for record in records if record.WhichOneof("record_type") == "artifact"
    )
    named = {entry.path for entry in artifact.manifest.contents}
    assert {"config.yaml", "manifest.json", "summary.json"} <= named
    assert any(path.startswith("tokens-") for path in named)
    keys = {
        item.key or item.nested_key[0]
        for record in records
        if record.WhichOneof("record_type") == "history"
        for item in record.history.item
    }
    assert {"loss", "lr", "grad_norm"} <= keys
    assert list((run / "logs" / "tensorboard").glob("events.out.tfevents.*"))
