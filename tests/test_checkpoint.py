"""Checkpoints are whole or not there."""

import json
import shutil
from pathlib import Path

import pytest
import torch

from plm import checkpoint, handoff
from plm.errors import CheckpointError, ConfigError, GuardStop


def write(folder: Path) -> None:
    from safetensors.torch import save_file

    save_file({"w": torch.ones(3)}, folder / checkpoint.WEIGHTS)


def test_round_trip_and_newest(tmp_path: Path) -> None:
    for tokens in (5, 100):
        checkpoint.save(tmp_path, tokens, {"step": tokens}, write)
    newest = checkpoint.newest(tmp_path, pytest.fail)
    assert newest == tmp_path / "tokens-000000000000100"
    assert checkpoint.read_meta(newest)["step"] == 100
    assert torch.equal(checkpoint.read_weights(newest)["w"], torch.ones(3))


def test_torn_one_is_named_and_skipped(tmp_path: Path) -> None:
    for tokens in (5, 100):
        path = checkpoint.save(tmp_path, tokens, {}, write)
    weights = path / checkpoint.WEIGHTS
    weights.write_bytes(weights.read_bytes()[:-1])
    said: list[str] = []
    assert checkpoint.newest(tmp_path, said.append) == tmp_path / "tokens-000000000000005"
    assert str(weights) in said[0]


def test_a_run_without_a_whole_one_is_one_clear_line(tmp_path: Path) -> None:
    folder = tmp_path / "checkpoints"
    folder.mkdir()
    with pytest.raises(CheckpointError, match="has no checkpoint yet; the run's own command goes"):
        handoff.find(str(tmp_path), "weights", "")
    for tokens, more in ((5, ""), (100, r" \(1 older: none whole\)")):
        torn = checkpoint.save(folder, tokens, {}, write) / checkpoint.WEIGHTS
        torn.write_bytes(torn.read_bytes()[:-1])
        said = rf"has no whole checkpoint; the newest: {torn} is torn: .*bytes{more}$"
        with pytest.raises(CheckpointError, match=f"^init_from={tmp_path} {said}"):
            handoff.find(str(tmp_path), "weights", "")


def test_failed_write_leaves_nothing(tmp_path: Path) -> None:
    def full(folder: Path) -> None:
        (folder / "part").write_text("x")
        raise OSError(28, "No space left on device")

    with pytest.raises(GuardStop, match="No space left on device"):
        checkpoint.save(tmp_path, 7, {}, full)
    assert list(tmp_path.iterdir()) == []


def test_newer_format_is_refused(tmp_path: Path) -> None:
    path = checkpoint.save(tmp_path, 7, {}, write)
    meta = json.loads((path / checkpoint.META).read_text())
    (path / checkpoint.META).write_text(json.dumps({**meta, "format": 99}))
    with pytest.raises(CheckpointError, match="format 99, this version reads 1"):
        checkpoint.read_meta(path)


def test_pickles_are_not_read(tmp_path: Path) -> None:
    torch.save({"w": torch.ones(1)}, tmp_path / "pytorch_model.bin")
    with pytest.raises(CheckpointError, match=r"neither model\.safetensors nor"):
        checkpoint.read_weights(tmp_path)


def test_weights_that_do_not_fit_are_named() -> None:
    found = {"a": torch.ones(2), "c": torch.ones(1)}
    wanted = {"a": torch.ones(3), "b": torch.ones(1)}
    with pytest.raises(CheckpointError) as error:
        checkpoint.fit_weights(found, wanted, Path("x"))
    text = str(error.value)
    assert "b is missing" in text
    assert "c is not in the model" in text
    assert "a is [2] there, [3] in the model" in text


def test_prune_keeps_the_last_and_the_named(tmp_path: Path) -> None:
    for tokens in (1, 2, 3, 4):
        checkpoint.save(tmp_path, tokens, {}, write)
    checkpoint.prune(tmp_path, keep_last=1, keep={2})
    assert [int(p.name[7:]) for p in sorted(tmp_path.iterdir())] == [2, 4]


def test_room_is_checked_before_the_first_step(tmp_path: Path) -> None:
    free = shutil.disk_usage(tmp_path).free
    checkpoint.check_room(tmp_path / "run" / "checkpoints", free // 8, 4)
    with pytest.raises(ConfigError, match=r"4 checkpoints of about .* GB.*keep_last"):
        checkpoint.check_room(tmp_path / "run" / "checkpoints", free // 2, 4)
