"""The run's folder: owned by one, frozen, not left half-made."""

import errno
from pathlib import Path

import pytest

from plm import checkpoint
from plm.errors import ConfigError
from plm.run import RunFolder


def test_other_settings_are_named(tmp_path: Path) -> None:
    folder = RunFolder(tmp_path / "run")
    folder.claim({"seed": 0, "model": {"hidden_size": 64}})
    folder.release()
    with pytest.raises(ConfigError, match=r"model.hidden_size: 64 there, 96 now.*resume=never"):
        RunFolder(tmp_path / "run").claim({"seed": 0, "model": {"hidden_size": 96}})


def test_whoever_ends_a_run_leaves_how_far_it_had_saved(tmp_path: Path) -> None:
    folder = RunFolder(tmp_path)
    folder.set_status("running", tokens=512)
    folder.set_status("interrupted", error="why")
    found = folder.status()
    assert (found["status"], found["tokens"], found["error"]) == ("interrupted", 512, "why")


def test_folder_in_use(tmp_path: Path) -> None:
    folder = RunFolder(tmp_path / "run")
    folder.claim({"seed": 0})
    with pytest.raises(ConfigError, match="in use by process"):
        RunFolder(tmp_path / "run").claim({"seed": 0})


def test_full_disk_leaves_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(path: Path, text: str) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(checkpoint, "write_atomic", full)
    with pytest.raises(ConfigError, match="No space left on device; make room"):
        RunFolder(tmp_path / "run").claim({"seed": 0})
    assert not (tmp_path / "run").exists()
