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

from tests.e2e.conftest import CHECKPOINTS, Trainer, last_weights, metrics, reopened

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


def test_killed_equals_undisturbed(trainer: Trainer, whole: Path) -> None:
    killed = trainer.runs / "killed"
    for rows in (7, 27):
        process = trainer.start("name=killed", CHECKPOINTS)
        assert kill_at(process, killed, rows, signal.SIGKILL) == -signal.SIGKILL
    trainer.run("name=killed", CHECKPOINTS)
    assert same(last_weights(whole), last_weights(killed))
    assert metrics(whole) == metrics(killed)


def test_ctrl_c_saves_and_says_how_to_go_on(trainer: Trainer, whole: Path) -> None:
    run = trainer.runs / "stopped"
    process = trainer.start("name=stopped", "checkpoint.every_tokens=0")
    assert kill_at(process, run, 9, signal.SIGINT) == 75
    status = json.loads((run / "status.json").read_text())
    assert status["status"] == "interrupted"
    assert "the same command goes on" in status["error"]
    assert "going on at" in trainer.run("name=stopped", "checkpoint.every_tokens=0")
    assert same(last_weights(run), last_weights(whole))


def test_a_stop_after_the_last_step_is_no_failure(trainer: Trainer, whole: Path) -> None:
    run = reopened(whole, trainer.runs / "ending")
    long = ("name=ending", CHECKPOINTS, "samples.number=2000", "samples.new_tokens=100")
    process = trainer.start(*long)
    end = time.monotonic() + 120
    while not (run / "status.json").exists() and time.monotonic() < end:
        time.sleep(0.002)
    # The steps are all there: this is within what comes before or behind them.
    process.send_signal(signal.SIGTERM)
    out, _ = process.communicate(timeout=60)
    assert process.returncode == 75 and "the same command goes on" in out, out
    status = json.loads((run / "status.json").read_text())
    assert status["status"] == "interrupted" and status["tokens"] > 0
    out = trainer.run("name=ending", CHECKPOINTS)
    assert "tokens/s" not in out.splitlines()[-2], out
    assert same(last_weights(run), last_weights(whole))


def test_torn_checkpoint_is_named_and_skipped(trainer: Trainer, whole: Path) -> None:
    run = reopened(whole, trainer.runs / "torn")
    newest = sorted((run / "checkpoints").glob("tokens-*"))[-1]
    weights = newest / "model.safetensors"
    weights.write_bytes(weights.read_bytes()[:-10])
    out = trainer.run("name=torn", CHECKPOINTS, "checkpoint.keep_last=30")
    assert "is torn" in out
    assert newest.name in out
    assert same(last_weights(run), last_weights(whole))


def test_other_settings_are_refused_by_name(trainer: Trainer, whole: Path) -> None:
    shutil.copytree(whole, trainer.runs / "fixed")
    assert "is finished" in trainer.run("name=fixed", CHECKPOINTS, "log_every_steps=2")
    (trainer.runs / "fixed" / "status.json").unlink()
    out = trainer.run("name=fixed", CHECKPOINTS, "clip_norm=0.5", code=2)
    assert "clip_norm: 1.0 there, 0.5 now" in out


def test_decay_forks_from_a_stable_checkpoint(trainer: Trainer, whole: Path) -> None:
    stable = next(
        path
        for path in sorted((whole / "checkpoints").glob("tokens-*"), reverse=True)
        if json.loads((path / "meta.json").read_text())["phase"] == "stable"
    )
    seen = int(stable.name.removeprefix("tokens-"))
    out = trainer.run("name=fork", f"init_from={stable}", "phases=decay_only")
    assert "everything from" in out
    rows = metrics(trainer.runs / "fork")
    assert int(rows[0]["tokens"]) == seen
    assert rows[1]["phase"] == "decay"
    # It begins at the end of the stable phase, where the whole run's own decay began.
    assert same(last_weights(trainer.runs / "fork"), last_weights(whole))


def test_changed_data_are_refused(trainer: Trainer, whole: Path, tmp_path: Path) -> None:
    other = tmp_path / "other.txt"
    other.write_text(trainer.text.read_text().replace("rain", "snow"))
    stable = sorted((whole / "checkpoints").glob("tokens-*"))[0]
    changed = (f"init_from={stable}", f"data.path={other}", "phases=decay_only")
    out = trainer.run("name=second", *changed, code=2)
    assert "data.allow_changed=true" in out
    assert not (trainer.runs / "second").exists()
