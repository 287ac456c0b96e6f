"""A run that was killed and started again ends as the undisturbed one does."""

import json
import os
import shutil
import signal
import subprocess
import time
from pathlib import Path

import pytest
import torch

from tests.e2e.conftest import Trainer, last_weights, metrics

pytestmark = pytest.mark.slow


def kill_at(process: subprocess.Popen, run: Path, rows: int, number: int) -> int:
    """Send a signal once metrics.csv has so many rows."""
    end = time.monotonic() + 120
    while process.poll() is None and time.monotonic() < end:
        path = run / "metrics.csv"
        if path.exists() and len(path.read_text().splitlines()) > rows:
            os.kill(process.pid, number)
            break
        time.sleep(0.01)
    process.communicate(timeout=60)
    return process.returncode


def same(left: dict, right: dict) -> bool:
    return left.keys() == right.keys() and all(torch.equal(left[k], right[k]) for k in left)


def test_killed_equals_undisturbed(trainer: Trainer) -> None:
    trainer.run("name=whole", "checkpoint.every_tokens=4096")
    killed = trainer.runs / "killed"
    for rows in (7, 18, 27):
        process = trainer.start("name=killed", "checkpoint.every_tokens=4096")
        assert kill_at(process, killed, rows, signal.SIGKILL) == -signal.SIGKILL
    trainer.run("name=killed", "checkpoint.every_tokens=4096")
    assert same(last_weights(trainer.runs / "whole"), last_weights(killed))
    assert metrics(trainer.runs / "whole") == metrics(killed)


def test_ctrl_c_saves_and_says_how_to_go_on(trainer: Trainer) -> None:
    run = trainer.runs / "stopped"
    process = trainer.start("name=stopped", "checkpoint.every_tokens=0")
    assert kill_at(process, run, 9, signal.SIGINT) == 75
    status = json.loads((run / "status.json").read_text())
    assert status["status"] == "interrupted"
    assert "the same command goes on" in status["error"]
    assert "going on at" in trainer.run("name=stopped", "checkpoint.every_tokens=0")
    trainer.run("name=undisturbed", "checkpoint.every_tokens=0")
    assert same(last_weights(run), last_weights(trainer.runs / "undisturbed"))


def test_torn_checkpoint_is_named_and_skipped(trainer: Trainer) -> None:
    trainer.run("name=torn", "checkpoint.every_tokens=4096")
    run = trainer.runs / "torn"
    before = last_weights(run)
    newest = sorted((run / "checkpoints").glob("tokens-*"))[-1]
    weights = newest / "model.safetensors"
    weights.write_bytes(weights.read_bytes()[:-10])
    (run / "status.json").unlink()
    out = trainer.run("name=torn", "checkpoint.every_tokens=4096")
    assert "is torn" in out
    assert newest.name in out
    assert same(last_weights(run), before)


def test_other_settings_are_refused_by_name(trainer: Trainer) -> None:
    trainer.run("name=fixed")
    out = trainer.run("name=fixed", "clip_norm=0.5", code=2)
    assert "clip_norm: 1.0 there, 0.5 now" in out
    assert "is finished" in trainer.run("name=fixed", "log_every_steps=2")


def test_decay_forks_from_a_stable_checkpoint(trainer: Trainer) -> None:
    trainer.run("name=base", "checkpoint.every_tokens=4096")
    stable = sorted((trainer.runs / "base" / "checkpoints").glob("tokens-*"))[0]
    seen = int(stable.name.removeprefix("tokens-"))
    out = trainer.run("name=fork", f"init_from={stable}", "phases=decay_only")
    assert "everything from" in out
    rows = metrics(trainer.runs / "fork")
    assert int(rows[0]["tokens"]) == seen
    assert rows[1]["phase"] == "decay"
    # The whole run decays from the same weights at the phase's end: the fork must equal it.
    assert same(last_weights(trainer.runs / "fork"), last_weights(trainer.runs / "base"))


def test_changed_data_are_refused(trainer: Trainer, tmp_path: Path) -> None:
    trainer.run("name=first")
    other = tmp_path / "other.txt"
    other.write_text(trainer.text.read_text().replace("rain", "snow"))
    shutil.copytree(trainer.runs / "first", trainer.runs / "second")
    (trainer.runs / "second" / "status.json").unlink()
    out = trainer.run("name=second", f"data.path={other}", code=2)
    assert "data.path" in out
