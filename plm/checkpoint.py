"""Checkpoints: written whole or not at all, found again, checked before use."""

import json
import os
import shutil
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from plm.errors import CheckpointError, ConfigError, GuardStop

FORMAT = 1
META = "meta.json"
WEIGHTS = "model.safetensors"
STATE = "state.pt"
SHARDS = "dcp"


def write_atomic(path: Path, text: str) -> None:
    """Write a small text file so that a reader sees the old or the new one, never a part.

    Raises:
        OSError: as the file system says.
    """
    partial = path.with_name(f".{path.name}.partial")
    with partial.open("w", encoding="utf-8") as file:
        file.write(text)
        file.flush()
        os.fsync(file.fileno())
    partial.replace(path)


def folder_name(tokens_seen: int) -> str:
    """Name of the checkpoint at a number of tokens."""
    return f"tokens-{tokens_seen:015d}"


def save(
    folder: Path, tokens_seen: int, meta: Mapping[str, Any], write: Callable[[Path], None]
) -> Path:
    """Make one checkpoint folder; it takes its name only once all of it is on the disk.

    Args:
        folder: the run's `checkpoints`.
        tokens_seen: names it.
        meta: what meta.json says besides the sizes of the files.
        write: fills the folder that it is given with files.
    Returns:
        The checkpoint's folder.
    Raises:
        GuardStop: the disk is full or read-only; the checkpoints before stay as they are.
    """
    target = folder / folder_name(tokens_seen)
    partial = folder / f".{target.name}.partial"
    try:
        shutil.rmtree(partial, ignore_errors=True)
        partial.mkdir(parents=True)
        write(partial)
        files = sorted(p for p in partial.rglob("*") if p.is_file())
        for path in files:
            with path.open("rb") as file:
                os.fsync(file.fileno())
        sizes = {str(path.relative_to(partial)): path.stat().st_size for path in files}
        text = json.dumps({"format": FORMAT, **meta, "files": sizes}, indent=1)
        write_atomic(partial / META, text)
        shutil.rmtree(target, ignore_errors=True)
        partial.rename(target)
    except OSError as error:
        shutil.rmtree(partial, ignore_errors=True)
        raise GuardStop(
            f"{target} could not be written: {error.strerror or error}; the checkpoints before it "
            "are whole, and the same command goes on from the newest"
        ) from error
    return target


def check_room(folder: Path, one: int, number: int) -> None:
    """Stop a run whose checkpoints cannot all lie on the disk.

    Args:
        folder: where they will lie; need not exist yet.
        one: bytes of a checkpoint.
        number: how many lie there at the same time, the one being written included.
    Raises:
        ConfigError: there is less room than that.
    """
    there = next(path for path in (folder, *folder.absolute().parents) if path.exists())
    free = shutil.disk_usage(there).free
    if free < one * number:
        raise ConfigError(
            f"runs_dir: {folder} has {free / 1e9:.3g} GB free, and {number} checkpoints of about "
            f"{one / 1e9:.3g} GB will lie there; make room, choose another runs_dir, or lower "
            "checkpoint.keep_last"
        )


def read_meta(path: Path) -> dict[str, Any]:
    """meta.json of a checkpoint that is whole.

    Raises:
        CheckpointError: a file is missing, short or from a newer format.
    """
    try:
        meta = json.loads((path / META).read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise CheckpointError(f"{path / META} cannot be read: {error}") from error
    if meta.get("format") != FORMAT:
        raise CheckpointError(
            f"{path} has format {meta.get('format')}, this version reads {FORMAT}"
        )
    for name, size in meta["files"].items():
        file = path / name
        if not file.is_file() or file.stat().st_size != size:
            found = file.stat().st_size if file.is_file() else "none"
            raise CheckpointError(f"{file} is torn: {found} of {size} bytes")
    return meta


def newest(folder: Path, warn: Callable[[str], None]) -> Path | None:
    """The newest whole checkpoint of a run; torn ones are named through `warn` and skipped."""
    for path in sorted(folder.glob("tokens-*"), reverse=True):
        try:
            read_meta(path)
        except CheckpointError as error:
            warn(f"skipped a checkpoint: {error}")
            continue
        return path
    return None


def prune(folder: Path, keep_last: int, keep: set[int]) -> None:
    """Remove all but the last few checkpoints and those at the token counts in `keep`."""
    found = sorted(folder.glob("tokens-*"))
    for path in found[: max(0, len(found) - keep_last)]:
        if int(path.name.removeprefix("tokens-")) not in keep:
            shutil.rmtree(path, ignore_errors=True)


def read_weights(path: Path, kind: str = "model") -> dict[str, Tensor]:
    """Weights by name, on the CPU, of a checkpoint folder; safetensors or DCP, never pickles.

    Args:
        path: the checkpoint.
        kind: model, average for those that callbacks.average kept, or another file's name.
    Raises:
        CheckpointError: there are none.
    """
    from safetensors import SafetensorError
    from safetensors.torch import load_file

    file = path / (WEIGHTS if kind == "model" else f"{kind}.safetensors")
    if file.is_file():
        try:
            return load_file(file)
        except SafetensorError as error:
            raise CheckpointError(f"{file} cannot be read: {error}") from error
    if kind != "model":
        writer = "callbacks.average" if kind == "average" else "another run"
        raise CheckpointError(f"{path} has no {file.name}, which {writer} writes")
    if (path / SHARDS).is_dir():
        return _read_shards(path / SHARDS)
    raise CheckpointError(f"{path} has neither {WEIGHTS} nor a folder {SHARDS}")


def _read_shards(path: Path) -> dict[str, Tensor]:
    import torch.distributed.checkpoint as dcp

    entries = dcp.FileSystemReader(str(path)).read_metadata().state_dict_metadata
    prefix = "model."
    found = {
        name: torch.empty(entry.size, dtype=entry.properties.dtype)
        for name, entry in entries.items()
        if name.startswith(prefix)
    }
    dcp.load(found, checkpoint_id=str(path), no_dist=True)
    return {name.removeprefix(prefix): value for name, value in found.items()}


def read_state(path: Path) -> dict[str, Any]:
    """state.pt of a checkpoint, on the CPU; tensors and plain values only."""
    try:
        return torch.load(path / STATE, map_location="cpu", weights_only=True)
    except (OSError, RuntimeError, ValueError) as error:
        raise CheckpointError(f"{path / STATE} cannot be read: {error}") from error


def fit_weights(found: Mapping[str, Tensor], wanted: Mapping[str, Tensor], where: Path) -> None:
    """Check that weights fit a model, name by name and shape by shape.

    Raises:
        CheckpointError: which tensors are missing, too many or of another shape.
    """
    problems = [f"{name} is missing" for name in wanted if name not in found]
    problems += [f"{name} is not in the model" for name in found if name not in wanted]
    problems += [
        f"{name} is {list(found[name].shape)} there, {list(value.shape)} in the model"
        for name, value in wanted.items()
        if name in found and found[name].shape != value.shape
    ]
    if problems:
        shown = "; ".join(problems[:6])
        more = f"; and {len(problems) - 6} more" if len(problems) > 6 else ""
        raise CheckpointError(f"the weights in {where} do not fit: {shown}{more}")
