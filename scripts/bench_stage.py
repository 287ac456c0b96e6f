"""Benchmarks of the stage as train.py runs it: its steps, and the way to its first one."""

import contextlib
import io
import json
import sys
import time
from pathlib import Path
from typing import Any, ClassVar

import lightning.pytorch as pl
import torch

from plm import checkpoint
from plm.data.loader import Batches
from plm.run import RunFolder
from plm.stages.job import Job
from plm.stages.runner import run_stage
from scripts.bench_common import (
    Bench,
    Took,
    alternate,
    ratio,
    seconds,
    spread,
    timed,
    timed_child,
)

PAIRS_A_ROUND = 2
"""Steps that are compared, as a multiple of the rounds of the other parts."""


class StepClock(pl.Callback):
    """Times each step of a real run, and before it the same step of a twin in a plain loop.

    A step of the run lasts until the next one begins: data, callbacks and progress are within.

    Args:
        run_dir: every callback is told; unused.
    """

    twin: "ClassVar[PlainLoop | None]" = None
    stage_took: ClassVar[list[Took]] = []
    twin_took: ClassVar[list[Took]] = []

    def __init__(self, run_dir: Path | None = None) -> None:
        super().__init__()
        self.begun: Took | None = None

    def on_train_batch_start(
        self, trainer: pl.Trainer, stage: Any, batch: Any, batch_idx: int
    ) -> None:
        """At a step's first micro-batch the step before has ended."""
        if not batch.first or self.twin is None:
            return
        now = clock()
        if self.begun is not None:
            self.stage_took.append(
                Took(now.cpu_s - self.begun.cpu_s, now.wall_s - self.begun.wall_s)
            )
        self.twin_took.append(timed(lambda: self.twin.step(batch.step)))
        self.begun = clock()


def clock() -> Took:
    """The time now, on both clocks."""
    return Took(time.process_time(), time.perf_counter())


class PlainLoop:
    """The run's model, optimizer, rates and batches, without anything around them.

    Args:
        settings: of the run; its job is built anew here.
        folder: of a run that is never written.
    """

    def __init__(self, settings: dict[str, Any], folder: Path) -> None:
        self.job = Job(settings, RunFolder(folder))
        batches = Batches(
            self.job.order, self.job.streams, micro_batch_size=settings["micro_batch_size"]
        )
        steps = range(self.job.plan.total_steps)
        self.batches = {step: list(batches.step(step)) for step in steps}
        stage = self.job.stage
        self.optimizer = stage.make_optimizer(stage.named(), lr=stage.peak_lr)
        self.job.model.train()

    def step(self, step: int) -> None:
        """One optimizer step."""
        stage, parts = self.job.stage, self.batches[step]
        for batch in parts:
            total = stage.compute(batch)["cross_entropy"].total
            (total / batch.kept_in_step).backward()
        torch.nn.utils.clip_grad_norm_(stage.model.parameters(), stage.clip_norm)
        size = self.job.plan.at(step).phase.global_batch_tokens
        share = stage.schedule(parts[0].tokens_seen + size)
        for group in self.optimizer.param_groups:
            group["lr"] = group["initial_lr"] * share
        self.optimizer.step()
        self.optimizer.zero_grad(set_to_none=True)


def stage_settings(bench: Bench, steps: int) -> dict[str, Any]:
    """A run of so many steps with a clock in it; held out figures and samples are left out.

    The one phase keeps its mixture and isolation; a step is one micro-batch, the most that what
    is around a step can weigh.
    """
    settings = json.loads(json.dumps(bench.settings))
    phase = settings["phases"]["stable"]
    batch = bench.rows * bench.seq_len
    phase |= {"tokens": steps * batch, "global_batch_tokens": batch}
    phase["rate"] |= {"warmup_tokens": batch}
    settings |= {
        "phases": {"stable": phase},
        "name": "stage",
        "runs_dir": str(bench.folder / "runs"),
        "callbacks": {"clock": {"_target_": "scripts.bench_stage.StepClock"}},
        "validation": {"every_tokens": 0, "windows": 1, "baselines": False},
    }
    settings["checkpoint"] |= {"every_tokens": 0}
    settings["samples"] |= {"number": 0}
    return settings


def bench_stage(bench: Bench) -> dict[str, Any]:
    """Lightning and all callbacks against a plain loop, in turn, step by step, in one run."""
    pairs = PAIRS_A_ROUND * bench.rounds
    # The first step warms up; the last one ends with the run.
    settings = stage_settings(bench, pairs + 2)
    twin = PlainLoop(settings, bench.folder / "plain")
    StepClock.twin, StepClock.stage_took[:], StepClock.twin_took[:] = twin, [], []
    folder = RunFolder.choose(settings)
    folder.claim(settings)
    quiet = io.StringIO()
    with contextlib.redirect_stdout(quiet), contextlib.redirect_stderr(quiet):
        run_stage(settings, folder)
    folder.release()
    saved = checkpoint.newest(folder.checkpoints, lambda text: None)
    weights = checkpoint.read_weights(saved) if saved else {}
    stage, plain = StepClock.stage_took[1:], StepClock.twin_took[1:-1]
    return {
        "stage_over_plain": ratio(stage, plain),
        # Of the sums: a single slow step, such as one that writes a row, weighs as it does.
        "stage_over_plain_in_all": sum(t.cpu_s for t in stage) / sum(t.cpu_s for t in plain),
        "seconds_a_step": {"stage": seconds(stage), "plain": seconds(plain)},
        "same_weights_at_the_end": all(
            torch.equal(value, weights[name]) for name, value in twin.job.model.state_dict().items()
        ),
        "log_every_steps": settings["log_every_steps"],
        "left_out": "validation and checkpoints, which a plain loop would need too",
        "shapes": {**bench.shapes, "steps": 1},
    }


def bench_start(bench: Bench) -> dict[str, Any]:
    """Processes from their start: ours up to the first step, Lightning alone, and --help."""
    common = [*bench.overrides, f"threads={bench.settings['threads']}"]
    runs = iter(range(10**6))

    def first_step() -> Any:
        own = [f"runs_dir={bench.folder / 'starts'}", f"name=start-{next(runs)}"]
        clock = "+callbacks.leave={_target_: scripts.bench_empty_fit.LeaveAtFirstStep}"
        return timed_child([sys.executable, "train.py", *common, *own, "trust=[scripts]", clock])

    # Prepares the data and fills the caches of both.
    first_step()
    took = alternate(
        {
            "first_step": first_step,
            "lightning": lambda: timed_child([sys.executable, "scripts/bench_empty_fit.py"]),
            "help": lambda: timed_child([sys.executable, "train.py", "--help"]),
        },
        bench.rounds,
    )
    both = list(zip(took["first_step"], took["lightning"], strict=True))
    return {
        "first_step_less_lightning_s": {
            "cpu": spread([a.cpu_s - b.cpu_s for a, b in both]),
            "wall": spread([a.wall_s - b.wall_s for a, b in both]),
            "rounds": len(both),
        },
        "seconds": {name: seconds(t) for name, t in took.items()},
    }
