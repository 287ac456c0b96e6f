"""Stages one after another: each a run of its own, which begins where the one before ended.

A stage is a child process of `train.py`. The same command goes on: a finished stage says so and is
passed over, the one that was stopped goes on from its checkpoint.
"""

import os
import signal
import subprocess
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import yaml

from plm.config import digest
from plm.errors import ConfigError, Interrupted
from plm.phases import Plan

ROOT = Path(__file__).resolve().parents[1]
TARGET = "plm.pipeline.run"
# What each stage says itself, or what is meant for the pipeline or its first stage alone.
_OWN = ("experiment", "stage", "stages", "name", "init_from", "init")


class Step(NamedTuple):
    """One stage.

    Attributes:
        words: overrides of `train.py`.
        folder: of its run.
    """

    words: list[str]
    folder: Path


def steps(settings: Mapping[str, Any], overrides: Sequence[str]) -> dict[str, Step]:
    """The stages, in order.

    Args:
        settings: `stages`, lists of overrides by stage; name or experiment_name; runs_dir.
        overrides: of the command line; those that are no stage's own go to all of them.
    Raises:
        ConfigError: there is no stage, one is no list, or a new folder is asked for.
    """
    stages = {name: own for name, own in (settings.get("stages") or {}).items() if own is not None}
    if not stages:
        raise ConfigError("stage=pipeline needs stages, for example +experiment=plm_pipeline")
    if settings.get("resume", "auto") != "auto":
        raise ConfigError(
            f"resume={settings['resume']} is for one run; give the pipeline another name=…"
        )
    shared = [text for text in overrides if _key(text).partition(".")[0] not in _OWN]
    base = settings.get("name")
    if not base:
        mark = digest([stages, sorted(shared), settings.get("init_from"), settings.get("init")])
        base = f"{settings.get('experiment_name') or 'pipeline'}-{mark}"
    start = [f"{key}={settings[key]}" for key in ("init_from", "init") if settings.get(key)]
    found: dict[str, Step] = {}
    for name, own in stages.items():
        if not isinstance(own, list) or not all(isinstance(text, str) for text in own):
            raise ConfigError(f"stages.{name}={own!r} is not a list of overrides")
        said = {_key(text): text.partition("=")[2] for text in own}
        begin = [text for text in start if _key(text) not in said]
        # A stage's own words come last, and so win.
        words = [*shared, f"name={base}-{name}", *begin, *own]
        runs_dir = Path(said.get("runs_dir", settings["runs_dir"]))
        found[name] = Step(words, runs_dir / said.get("name", f"{base}-{name}"))
        start = [f"init_from={found[name].folder}"]
    return found


def run(settings: Mapping[str, Any], overrides: Sequence[str]) -> tuple[int, Path]:
    """Run the stages that a configuration names.

    Returns:
        Exit code: 0, or that of the stage which failed or was stopped; the rest is not begun. And
        the folder of the last stage that was.
    Raises:
        ConfigError: a stage's settings do not compose, before any has begun; or several processes
            were started for what starts its own.
    """
    if int(os.environ.get("WORLD_SIZE", "1")) > 1:
        raise ConfigError(
            "stage=pipeline starts the processes of each stage itself: give trainer=ddp "
            "trainer.devices=<n> in the place of torchrun"
        )
    all_of_them = steps(settings, overrides)
    for name, step in all_of_them.items():
        _check(name, step)
    folder = Path()
    for number, (name, (words, folder)) in enumerate(all_of_them.items(), start=1):
        print(f"stage {number} of {len(all_of_them)}: {name}", file=sys.stderr, flush=True)
        code = _child(_train(words))
        if code:
            # One that was interrupted says so itself.
            if code != Interrupted.exit_code:
                print(f"the stage {name} ended with exit code {code}", file=sys.stderr)
            return code, folder
    return 0, folder


def _check(name: str, step: Step) -> None:
    """Compose a stage, and read its phases, as far as that needs no folder of the stage before."""
    said = subprocess.run(
        [*_train(step.words), "--cfg", "job", "--resolve"],
        capture_output=True,
        text=True,
        check=False,
    )
    if said.returncode:
        line = (said.stderr.strip().splitlines() or ["it does not compose"])[-1]
        raise ConfigError(f"stages.{name}: {line}")
    try:
        Plan.read(yaml.safe_load(said.stdout)["phases"])
    except ConfigError as error:
        raise ConfigError(f"stages.{name}: {error}") from error


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
