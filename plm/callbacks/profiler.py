"""torch's profiler over a few steps, and the GPU allocator's history."""

from pathlib import Path
from typing import Any

import lightning.pytorch as pl
import torch
from torch.profiler import ProfilerActivity, profile

from plm.batch import Batch


class Profiler(pl.Callback):
    """Writes `profile/trace.json` (for chrome://tracing or Perfetto) and a table of operators.

    Args:
        run_dir: the run's folder.
        first_step: step of this process at which it begins.
        steps: how many it watches.
        memory: on a GPU, also write `profile/memory.pickle` for pytorch.org/memory_viz.
    """

    def __init__(
        self, run_dir: Path, *, first_step: int = 5, steps: int = 3, memory: bool = False
    ) -> None:
        self.folder, self.first, self.steps = run_dir / "profile", first_step, steps
        self.memory = memory
        self._done, self._profile = 0, None

    def on_train_batch_start(
        self, trainer: pl.Trainer, stage: Any, batch: Batch, batch_idx: int
    ) -> None:
        """Begin at the first micro-batch of the first step watched."""
        if batch.first and self._done == self.first and trainer.global_rank == 0:
            self.folder.mkdir(exist_ok=True)
            activities = [ProfilerActivity.CPU]
            if torch.cuda.is_available():
                activities.append(ProfilerActivity.CUDA)
                if self.memory:
                    torch.cuda.memory._record_memory_history()
            self._profile = profile(activities=activities, record_shapes=True)
            self._profile.__enter__()

    def on_train_batch_end(
        self, trainer: pl.Trainer, stage: Any, outputs: Any, batch: Batch, batch_idx: int
    ) -> None:
        """Count steps; write after the last one watched."""
        if not batch.last:
            return
        self._done += 1
        if self._profile is not None and self._done == self.first + self.steps:
            self._profile.__exit__(None, None, None)
            self._profile.export_chrome_trace(str(self.folder / "trace.json"))
            sums = self._profile.key_averages().table(sort_by="self_cpu_time_total", row_limit=40)
            (self.folder / "operators.txt").write_text(sums, encoding="utf-8")
            if self.memory and torch.cuda.is_available():
                torch.cuda.memory._dump_snapshot(str(self.folder / "memory.pickle"))
            self._profile = None
