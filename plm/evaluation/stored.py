"""Results on the disk: one JSON file an evaluation, in the run's folder `evaluations`."""

import json
import math
from pathlib import Path
from typing import Any

from plm.errors import ConfigError, DataError
from plm.evaluation.common import Result

FOLDER = "evaluations"
FORMAT = 1


def plain(result: Result) -> dict[str, Any]:
    """A result as JSON holds it: NaN becomes null."""
    return {
        "figures": {
            name: {k: _finite(v) for k, v in figure._asdict().items()}
            for name, figure in result.figures.items()
        },
        "settings": result.settings,
        "digest": result.digest,
        "prompt": result.prompt,
        "notes": result.notes,
        "items": result.records,
    }


def _finite(value: Any) -> Any:
    return None if isinstance(value, float) and not math.isfinite(value) else value


def write(path: Path, about: dict[str, Any], results: dict[str, Result]) -> Path:
    """Write an evaluation, whole or not at all.

    Args:
        path: of the file; what is there is replaced.
        about: what was evaluated, when, and under which conditions.
        results: by task.
    Raises:
        ConfigError: it cannot be written.
    """
    # Here, since a report is read and written without torch.
    from plm.checkpoint import write_atomic

    told = {"format": FORMAT, **about, "tasks": {n: plain(r) for n, r in results.items()}}
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        write_atomic(path, json.dumps(told, indent=1, allow_nan=False, default=str))
    except OSError as error:
        raise ConfigError(f"{path} cannot be written: {error.strerror or error}") from error
    return path


def read(path: Path) -> dict[str, Any]:
    """A stored evaluation.

    Raises:
        DataError: it is missing, damaged or of another format.
    """
    try:
        told = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise DataError(f"{path} cannot be read: {error}") from error
    if not isinstance(told, dict) or told.get("format") != FORMAT:
        raise DataError(f"{path} is no evaluation of format {FORMAT}")
    return told


def files(run: Path) -> list[Path]:
    """Stored evaluations of a run folder, by name."""
    return sorted(p for p in (run / FOLDER).glob("*.json") if not p.name.startswith("."))


def newest(where: Path) -> dict[str, dict[str, Any]]:
    """Each task's newest result, with the evaluation that it is from as `evaluation`.

    Args:
        where: a run folder, or the JSON file of one evaluation.
    Raises:
        DataError: there is none, or one cannot be read.
    """
    paths = [where] if where.is_file() else files(where)
    if not paths:
        raise DataError(
            f"{where} has no stored evaluations; scripts/evaluate.py run={where} tasks=[…] makes "
            "one"
        )
    found: dict[str, dict[str, Any]] = {}
    for told in sorted((read(path) for path in paths), key=order):
        about = {k: v for k, v in told.items() if k != "tasks"}
        for name, task in told["tasks"].items():
            found[name] = {**task, "evaluation": about}
    return found


def order(told: dict[str, Any]) -> tuple[int, float]:
    """What makes an evaluation newer: more tokens seen, then the time."""
    return int(told.get("tokens_seen") or 0), float(told.get("time") or 0)


def conditions(subject: Any) -> dict[str, Any]:
    """What figures depend on beside model and task."""
    import platform
    from importlib.metadata import PackageNotFoundError, version

    import torch

    found = {
        "python": platform.python_version(),
        "device": torch.cuda.get_device_name() if subject.device.type == "cuda" else "CPU",
        "dtype": str(next(subject.model.parameters()).dtype).removeprefix("torch."),
        "threads": torch.get_num_threads(),
        "rows": subject.rows,
        "prompt": subject.style,
    }
    for name in ("plm", "torch", "tokenizers", "reasoning_gym", "lm_eval", "datasets"):
        try:
            found[name] = version(name)
        except PackageNotFoundError:
            continue
    return found
