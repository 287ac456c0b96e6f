"""The run's folder: who owns it, what it was started with, where it stands."""

import fcntl
import json
import logging
import os
import re
import shutil
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from omegaconf import OmegaConf

from plm import checkpoint
from plm.config import digest, locate
from plm.errors import CheckpointError, ConfigError

log = logging.getLogger("plm")

IDENTITY = (
    "stage",
    "model",
    "phases",
    "data",
    "optimizer",
    "schedule",
    "scaling",
    "losses",
    "seed",
    "peak_lr",
    "clip_norm",
    "init_from",
    "init",
    "refinement",
    "reference",
    "prompts",
    "candidates",
    "reward",
    "pairing",
    "round",
)
"""Settings that make a run what it is; the others may change when it goes on."""

WHERE_ONLY = {
    "data": ("dir", "workers", "allow_changed", "max_epochs", "past_max_epochs", "path_recipe")
}


def identity(settings: Mapping[str, Any]) -> dict[str, Any]:
    """The part of a configuration that a resumed run must share."""
    found = {key: settings.get(key) for key in IDENTITY}
    for key, names in WHERE_ONLY.items():
        if isinstance(found.get(key), dict):
            found[key] = {k: v for k, v in found[key].items() if k not in names}
    data = found.get("data")
    if isinstance(data, dict) and data.get("tokenizer_sha256"):
        # Where it lies may change: that of the run before, with its newest checkpoint.
        data["tokenizer"] = None
    learning = {n: node for n, node in (settings.get("callbacks") or {}).items() if _teaches(node)}
    return {**found, "callbacks": learning} if learning else found


def _teaches(node: Any) -> bool:
    """Whether a callback changes what is learnt, as its class says."""
    target = node.get("_target_") if isinstance(node, Mapping) else None
    return bool(target and getattr(locate(target), "changes_training", False))


def differences(old: Any, new: Any, key: str = "") -> list[str]:
    """Each leaf in which two settings differ, as `key: old there, new now`."""
    if isinstance(old, dict) and isinstance(new, dict):
        names = list(dict.fromkeys([*old, *new]))
        return [
            line
            for name in names
            for line in differences(old.get(name), new.get(name), f"{key}.{name}" if key else name)
        ]
    # What is not there is as if it were null.
    there, now = ("nothing" if value is None else value for value in (old, new))
    return [] if old == new else [f"{key}: {there} there, {now} now"]


class RunFolder:
    """One run's folder, locked while its process lives.

    Args:
        path: the folder; made on `claim`.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self.checkpoints = path / "checkpoints"
        self._lock: Any = None
        self.is_new = False

    @classmethod
    def choose(cls, settings: Mapping[str, Any]) -> "RunFolder":
        """The folder that these settings belong to.

        Raises:
            ConfigError: a name that cannot be a folder's, or `resume` is neither a word nor a path.
        """
        name = settings.get("name")
        given = bool(name)
        if not given:
            name = f"{settings.get('experiment_name') or 'run'}-{digest(identity(settings))}"
        if not re.fullmatch(r"[\w.+-]+", name):
            raise ConfigError(f"name={name!r}: use letters, digits and . _ + - only")
        path = Path(settings["runs_dir"]) / name
        if settings.get("resume") == "never":
            number, free = 1, path
            while (free / "config.yaml").exists():
                number += 1
                free = path.with_name(f"{path.name}-{number}")
            path = free
        return cls(path)

    def claim(self, settings: Mapping[str, Any]) -> None:
        """Make the folder, lock it and freeze the configuration in it.

        Raises:
            ConfigError: it cannot be written, another process has it, or it holds another run.
        """
        try:
            self.path.mkdir(parents=True, exist_ok=True)
            self._lock = (self.path / "lock").open("a+")
        except OSError as error:
            raise ConfigError(
                f"runs_dir: {self.path} cannot be written: {error.strerror}; choose another"
            ) from error
        try:
            fcntl.flock(self._lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError as error:
            raise ConfigError(
                f"{self.path} is in use by process {self._owner()}; wait for it or give a name=…"
            ) from error
        frozen = self.frozen()
        self.is_new = frozen is None
        if frozen is not None:
            found = differences(identity(frozen), identity(settings))
            if found:
                raise ConfigError(
                    f"{self.path} holds a run with other settings ({'; '.join(found[:8])}); "
                    "give another name=…, or resume=never for a new folder"
                )
        try:
            self._lock.truncate(0)
            self._lock.write(str(os.getpid()))
            self._lock.flush()
            checkpoint.write_atomic(self.path / "config.yaml", OmegaConf.to_yaml(dict(settings)))
        except OSError as error:
            self.discard()
            raise ConfigError(
                f"runs_dir: {self.path} cannot be written: {error.strerror}; make room or choose "
                "another"
            ) from error

    def discard(self) -> None:
        """Remove the folder of a run that a mistake ended before it saved anything."""
        # What a round has sampled took long, and says what was wrong with it.
        sampled = (self.path / "round" / "samples.jsonl").is_file()
        if self.is_new and not sampled and not any(self.checkpoints.glob("tokens-*")):
            for handler in list(log.handlers):
                if isinstance(handler, logging.FileHandler):
                    log.removeHandler(handler)
                    handler.close()
            shutil.rmtree(self.path, ignore_errors=True)

    def _owner(self) -> str:
        try:
            return (self.path / "lock").read_text().strip() or "unknown"
        except OSError:
            return "unknown"

    def release(self) -> None:
        """Let another process have the folder."""
        if self._lock is not None:
            self._lock.close()
            self._lock = None

    def frozen(self) -> dict[str, Any] | None:
        """The configuration that the run was started with; None for a new one."""
        path = self.path / "config.yaml"
        if not path.exists():
            return None
        return OmegaConf.to_container(OmegaConf.load(path))  # type: ignore[return-value]

    def status(self) -> dict[str, Any]:
        """What status.json says; empty for a new run."""
        try:
            return json.loads((self.path / "status.json").read_text(encoding="utf-8"))
        except (OSError, ValueError):
            return {}

    def set_status(self, status: str, **more: Any) -> None:
        """Say in status.json how the run stands: running, done, interrupted, stopped, failed."""
        # Whoever ends a run does not know how far it had saved.
        known = {key: value for key, value in self.status().items() if key == "tokens"}
        text = {"status": status, "time": time.time(), "pid": os.getpid(), **known, **more}
        checkpoint.write_atomic(self.path / "status.json", json.dumps(text, indent=1))

    def newest(self, resume: str) -> Path | None:
        """The checkpoint to go on from: the newest whole one, or the one that `resume` names.

        Raises:
            CheckpointError: the named one is not there or not whole.
        """
        if resume in ("auto", "never"):
            return checkpoint.newest(self.checkpoints, log.warning)
        path = Path(resume)
        if not path.is_dir():
            raise CheckpointError(f"resume={resume} is not auto, never or a checkpoint's folder")
        checkpoint.read_meta(path)
        return path


def setup_logging(path: Path, rank: int = 0) -> None:
    """Send the log to the run's folder and, from rank 0, to the terminal as well."""
    logger = logging.getLogger("plm")
    for handler in list(logger.handlers):
        logger.removeHandler(handler)
        handler.close()
    logger.setLevel(logging.INFO)
    logger.propagate = False
    if rank == 0:
        shown = logging.StreamHandler()
        shown.setFormatter(logging.Formatter("%(message)s"))
        logger.addHandler(shown)
    file = path / "log.txt" if rank == 0 else path / "logs" / f"rank{rank}.log"
    file.parent.mkdir(parents=True, exist_ok=True)
    kept = logging.FileHandler(file, encoding="utf-8")
    kept.setFormatter(logging.Formatter("%(asctime)s %(levelname)s %(message)s"))
    logger.addHandler(kept)
