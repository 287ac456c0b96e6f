"""What bench_rlvr gives train.py: a reward, and a callback that times the steps."""

import json
import os
from pathlib import Path
from typing import Any

import lightning.pytorch as pl

from scripts.bench_rlvr_forms import Clock, reward


def by_hash(completion: str, example: Any) -> float:
    """The reward of both sides."""
    return reward([completion])[0]


class ClockCallback(pl.Callback):
    """Times the steps, and writes what it found to the file that BENCH_RLVR names.

    Args:
        run_dir: not used.
        steps: that are measured.
    """

    def __init__(self, run_dir: Path, *, steps: int) -> None:
        self.clock = Clock(steps)

    def on_train_batch_start(self, trainer: Any, stage: Any, batch: Any, batch_idx: int) -> None:
        """A step begins with its first micro-batch."""
        if batch.first:
            self.clock.begin()

    def on_train_batch_end(
        self, trainer: Any, stage: Any, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        """It ends with its last one."""
        if batch.last:
            self.clock.end()
            tokens = sum(len(one.tokens) for one in stage.turn)
            Path(os.environ["BENCH_RLVR"]).write_text(
                json.dumps({**self.clock.found, "tokens": tokens})
            )
