"""Stages one after another: each a run of its own, which begins where the one before ended.

A stage is a child process of `train.py`. The same command goes on: a finished stage says so and is
passed over, the one that was stopped goes on from its checkpoint.
"""

import signal
import subprocess
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from plm.errors import ConfigError, Interrupted

ROOT = Path(__file__).resolve().parents[1]
TARGET = "plm.pipeline.run"
# What each stage says itself, or what is meant for the pipeline alone.
_OWN = ("experiment", "stage", "stages", "name", "init_from", "init")


def commands(settings: Mapping[str, Any], overrides: Sequence[str]) -> dict[str, list[str]]:
    """Each stage's overrides of `train.py`, in order.

    Args:
        settings: `stages`, lists of overrides by stage; name or experiment_name; runs_dir.
        overrides: of the command line; those that are no stage's own go to all of them.
    Raises:
        ConfigError: there is no stage, or one is no list.
    """
    stages = {name: own for name, own in (settings.get("stages") or {}).items() if own is not None}
    if not stages:
        raise ConfigError("stage=pipeline needs stages, for example +experiment=plm_pipeline")
    shared = [text for text in overrides if _key(text).partition(".")[0] not in _OWN]
    base = settings.get("name") or settings.get("experiment_name") or "pipeline"
    before, found = settings.get("init_from"), {}
    for name, own in stages.items():
        if not isinstance(own, list) or not all(isinstance(text, str) for text in own):
            raise ConfigError(f"stages.{name}={own!r} is not a list of overrides")
        keys = {_key(text) for text in own}
        start = [f"init_from={before}"] if before and "init_from" not in keys else []
        # A stage's own words come last, and so win.
        found[name] = [*shared, f"name={base}-{name}", *start, *own]
        named = [text.partition("=")[2] for text in own if _key(text) == "name"]
        before = str(Path(settings["runs_dir"]) / (named[-1] if named else f"{base}-{name}"))
    return found


def run(settings: Mapping[str, Any], overrides: Sequence[str]) -> int:
    """Run the stages that a configuration names.

    Returns:
        Exit code: 0, or that of the stage which failed or was stopped; the rest is not begun.
    Raises:
        ConfigError: a stage's settings do not compose, before any has begun.
    """
    all_of_them = commands(settings, overrides)
    for name, words in all_of_them.items():
        said = subprocess.run(
            [*_train(words), "--cfg", "job"], capture_output=True, text=True, check=False
        )
        if said.returncode:
            line = (said.stderr.strip().splitlines() or ["it does not compose"])[-1]
            raise ConfigError(f"stages.{name}: {line}")
    for number, (name, words) in enumerate(all_of_them.items(), start=1):
        print(f"stage {number} of {len(all_of_them)}: {name}", file=sys.stderr, flush=True)
        code = _child(_train(words))
        if code:
            again = "; the same command goes on" if code == Interrupted.exit_code else ""
            print(f"the stage {name} ended with exit code {code}{again}", file=sys.stderr)
            return code
    return 0


def _key(text: str) -> str:
    return text.lstrip("+~").partition("=")[0].partition("@")[0].removeprefix("/")


def _train(words: Sequence[str]) -> list[str]:
    return [sys.executable, str(ROOT / "train.py"), *words]


def _child(command: list[str]) -> int:
    """Run to its end; signals that reach this process alone are passed on."""
    child = subprocess.Popen(command)

    def forward(number: int, frame: object) -> None:
        if child.poll() is None:
            child.send_signal(number)

    old = {n: signal.signal(n, forward) for n in (signal.SIGTERM, signal.SIGUSR1)}
    # A terminal sends Ctrl-C to both.
    old[signal.SIGINT] = signal.signal(signal.SIGINT, signal.SIG_IGN)
    try:
        code = child.wait()
    finally:
        for number, handler in old.items():
            signal.signal(number, handler)
    return code if code >= 0 else 128 - code
