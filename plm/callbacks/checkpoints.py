"""Checkpoints by tokens, at each phase's end, and when the run is asked to stop."""

import signal
from collections.abc import Callable
from pathlib import Path
from types import FrameType
from typing import Any

import lightning.pytorch as pl

from plm import checkpoint
from plm.batch import Batch
from plm.callbacks.common import due
from plm.errors import SECOND_CTRL_C, Interrupted


class Checkpoints(pl.Callback):
    """Writes them, keeps the last few and those at phase ends.

    Args:
        folder: the run's `checkpoints`.
        every_tokens: how often; 0: at phase ends only.
        keep_last: how many of the others stay.
        meta: `() -> dict` for meta.json.
        state: `() -> dict` of tensors and plain values for state.pt.
        files: `() -> {name: text}` of small files beside them.
        told: called when one is there.
        others: callbacks; those with `write(folder)` and `read(folder)` keep files of their own.
    """

    def __init__(
        self,
        folder: Path,
        *,
        every_tokens: int,
        keep_last: int,
        meta: Callable[[], dict[str, Any]],
        state: Callable[[], dict[str, Any]],
        files: Callable[[], dict[str, str]],
        told: Callable[[], None],
        others: list[pl.Callback],
    ) -> None:
        self.folder, self.every, self.keep_last = folder, every_tokens, keep_last
        self.meta, self.state, self.files, self.told = meta, state, files, told
        self.others = [callback for callback in others if hasattr(callback, "write")]
        self.written = -1

    def on_train_batch_end(
        self, trainer: pl.Trainer, stage: Any, outputs: Any, batch: Batch, batch_idx: int
    ) -> None:
        """Save where it is due; stop where that was asked."""
        if not batch.last:
            return
        stops = stage.stop_agreed and stage.step < stage.plan.total_steps
        if stops or due(stage, batch, self.every):
            self.save(trainer, stage)
        if stops:
            raise Interrupted(
                f"stopped at {stage.tokens_seen} tokens with all saved; the same command goes on"
            )

    def save(self, trainer: pl.Trainer, stage: Any) -> None:
        """Write one now; sharded strategies write from every rank."""
        if self.written == stage.tokens_seen:
            return
        self.written = stage.tokens_seen
        state = self.state()
        collective = stage.placement.collective_write

        def write(folder: Path) -> None:
            stage.placement.write(folder, state)
            self._beside(folder)

        if not collective:
            if trainer.global_rank == 0:
                self._save_here(stage, write)
            trainer.strategy.barrier()
            return
        # Parts are written into one folder by all; rank 0 then closes it.
        name = checkpoint.folder_name(stage.tokens_seen)
        parts = self.folder / f".{name}.parts"
        if trainer.global_rank == 0:
            parts.mkdir(parents=True, exist_ok=True)
        trainer.strategy.barrier()
        stage.placement.write(parts, state)
        trainer.strategy.barrier()
        if trainer.global_rank == 0:

            def close(folder: Path) -> None:
                for path in parts.iterdir():
                    path.rename(folder / path.name)
                self._beside(folder)
                parts.rmdir()

            self._save_here(stage, close)
        trainer.strategy.barrier()

    def _beside(self, folder: Path) -> None:
        for name, text in self.files().items():
            (folder / name).write_text(text, encoding="utf-8")
        for callback in self.others:
            callback.write(folder)

    def _save_here(self, stage: Any, write: Callable[[Path], None]) -> None:
        checkpoint.save(self.folder, stage.tokens_seen, self.meta(), write)
        ends = {planned.end_tokens for planned in stage.plan.phases}
        checkpoint.prune(self.folder, self.keep_last, ends)
        self.told()


class StopOnSignal(pl.Callback):
    """SIGTERM, SIGUSR1 and Ctrl-C: finish the step, save, leave; a second Ctrl-C leaves at once."""

    def __init__(self, note: Callable[[str], None]) -> None:
        self.note = note

    def on_train_start(self, trainer: pl.Trainer, stage: Any) -> None:
        """Take the signals over; the handler only sets a flag, which all ranks then agree on."""

        def ask(number: int, frame: FrameType | None) -> None:
            if stage.stop_asked and number == signal.SIGINT:
                raise SystemExit(SECOND_CTRL_C)
            if not stage.stop_asked:
                self.note("stopping after this step; Ctrl-C again leaves without saving")
            stage.stop_asked = True

        for number in (signal.SIGTERM, signal.SIGINT, signal.SIGUSR1):
            signal.signal(number, ask)
