"""From a frozen configuration to a finished run: fit the parts, finish."""

import logging
import signal
import warnings
from collections.abc import Callable
from pathlib import Path
from types import FrameType
from typing import Any

import lightning.pytorch as pl
import torch
from torch.utils.data import DataLoader

from plm import checkpoint
from plm.batch import Batch
from plm.callbacks.checkpoints import Checkpoints, StopOnSignal
from plm.callbacks.progress import Progress
from plm.callbacks.recorder import Recorder
from plm.callbacks.validation import Validation, row
from plm.config import build
from plm.errors import GuardStop, Interrupted
from plm.metrics import MetricsTable, peak_flops
from plm.precision import accelerator_of, precision_of
from plm.run import RunFolder
from plm.stages.finish import finish
from plm.stages.job import Job
from plm.stages.origin import conditions
from plm.stages.summary import show

log = logging.getLogger("plm")


def _trainer(job: Job, callbacks: list[pl.Callback], loggers: list[Any]) -> pl.Trainer:
    chosen = job.settings["trainer"]
    warnings.filterwarnings("ignore", message=".*does not have many workers.*")
    warnings.filterwarnings("ignore", message=".*IterableDataset.*")
    # Lightning 2.6 with torch 2.13; nothing that a user could do about it.
    warnings.filterwarnings("ignore", message=".*LeafSpec.*")
    logging.getLogger("lightning.pytorch").setLevel(logging.WARNING)
    return pl.Trainer(
        accelerator=accelerator_of(chosen["accelerator"]),
        devices=chosen["devices"],
        num_nodes=chosen["num_nodes"],
        strategy=build(chosen["strategy"]) if chosen["strategy"] else "auto",
        precision=precision_of(job.settings["precision"], chosen["accelerator"]),
        max_epochs=1,
        logger=loggers,
        callbacks=callbacks,
        enable_progress_bar=False,
        enable_model_summary=False,
        enable_checkpointing=False,
        use_distributed_sampler=False,
        num_sanity_val_steps=0,
        limit_val_batches=0,
    )


class Opening(pl.Callback):
    """Takes over a checkpoint's state, evaluates before step 1, says what is about to run."""

    def __init__(self, job: Job, recorder: Recorder, table: MetricsTable) -> None:
        self.job, self.recorder, self.table = job, recorder, table
        self.before: dict[str, Any] = {}

    def on_train_start(self, trainer: pl.Trainer, stage: Any) -> None:
        """Before the first batch."""
        job = self.job
        if job.start.everything and job.start.path is not None:
            state = checkpoint.read_state(job.start.path)
            stage.placement.read(job.start.path, state)
            if job.resumed:
                self.recorder.elapsed = float(state["elapsed_s"])
                stage.bad_steps = int(state["bad_steps"])
                first = trainer.global_rank == 0
                stage.sums.load(state["sums"], stage.device, first=first)
                for part in (*trainer.callbacks, stage):
                    if hasattr(part, "read"):
                        part.read(job.start.path)
                self.before = job.start.meta["val_before"]
        elif trainer.global_rank == 0 and self.table.rows:
            # Rows of a process that was killed before its first checkpoint.
            self.table.rows.clear()
        stage.open(job)
        if not job.resumed:
            self.before = job.evaluate()
            if trainer.global_rank == 0:
                self.table.add(
                    {"step": stage.step, "tokens": stage.tokens_seen, **row(self.before)}
                )


class Closing(pl.Callback):
    """The run's end, while the model still lies on its device; the last of the callbacks.

    Args:
        finish: `(trainer) -> None`.
        recorder: told when a step's callbacks are through.
    """

    def __init__(self, finish: Callable[[pl.Trainer], None], recorder: Recorder) -> None:
        self.finish, self.recorder = finish, recorder

    def on_train_batch_end(
        self, trainer: pl.Trainer, stage: Any, outputs: Any, batch: Batch, batch_idx: int
    ) -> None:
        """What the callbacks took (a checkpoint, an evaluation) was no waiting for data."""
        self.recorder.through()

    def on_train_end(self, trainer: pl.Trainer, stage: Any) -> None:
        """After the last step."""
        # Nothing is left that a step could save: leave at once. Not by a KeyboardInterrupt, which
        # Lightning makes an exit with code 1 of.
        for number in (signal.SIGTERM, signal.SIGINT, signal.SIGUSR1):
            signal.signal(number, _leave)
        if stage.stop_asked:
            _leave()
        self.finish(trainer)


def _leave(number: int = 0, frame: FrameType | None = None) -> None:
    raise Interrupted("stopped after the last step, all saved; the same command goes on")


def _peak(job: Job) -> float:
    """FLOP/s of all ranks that utilisation is a share of."""
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    precision = precision_of(job.settings["precision"], job.settings["trainer"]["accelerator"])
    return peak_flops(device, precision) * job.world


def run_stage(settings: dict[str, Any], folder: RunFolder) -> None:
    """Run the stage that the settings compose, from where it stands to its end.

    Raises:
        PlmError: the user's mistakes, guards and interruptions.
    """
    job = Job(settings, folder)
    table = MetricsTable(folder.path / "metrics.csv")
    stored = job.start.path / "metrics.csv" if job.resumed and job.start.path else None
    if stored is not None and stored.is_file() and job.rank == 0:
        table.load(stored.read_text(encoding="utf-8"))
        table.rewrite()
    elif job.rank == 0:
        table.load("")
    peak = _peak(job)
    progress = None
    if job.rank == 0:
        show(job, peak)
        progress = Progress(
            job.plan.total_tokens,
            start_tokens=job.stage.tokens_seen - job.plan.origin_tokens,
            name=folder.path.name,
        )
        folder.set_status("running", tokens=job.stage.tokens_seen)
    recorder = Recorder(
        table,
        every_steps=settings["log_every_steps"],
        flops_per_token=job.model.training_flops_per_token,
        peak_flops=peak,
        order=job.order,
        progress=progress,
    )
    opening = Opening(job, recorder, table)
    others = [build(n, run_dir=folder.path) for n in settings["callbacks"].values() if n]
    saver = Checkpoints(
        folder.checkpoints,
        every_tokens=settings["checkpoint"]["every_tokens"],
        keep_last=settings["checkpoint"]["keep_last"],
        meta=lambda: _meta(job, opening),
        told=lambda: folder.set_status("running", tokens=job.stage.tokens_seen),
        state=lambda: {
            "elapsed_s": recorder.total_elapsed(),
            "bad_steps": job.stage.bad_steps,
            "sums": job.stage.sums.state(),
        },
        files=lambda: {"metrics.csv": table.text(), **job.files()},
        others=[*others, job.stage],
    )

    def end(trainer: pl.Trainer) -> None:
        if progress is not None:
            progress.close()
        finish(job, trainer, recorder, opening.before)

    callbacks = [
        opening,
        Validation(job.evaluate, settings["validation"]["every_tokens"]),
        *others,
        recorder,
        saver,
        StopOnSignal(progress.note if progress else log.info),
        Closing(end, recorder),
    ]
    loggers = _loggers(settings, folder.path) if job.rank == 0 else []
    trainer = _trainer(job, callbacks, loggers)
    try:
        trainer.fit(job.stage, DataLoader(job.batches(), batch_size=None))
    except OSError as error:
        raise GuardStop(f"{folder.path}: {error.strerror}; the checkpoints are whole") from error
    finally:
        if progress is not None:
            progress.close()


def _loggers(settings: dict[str, Any], path: Path) -> list[Any]:
    return [
        build(node, run_dir=path, settings=settings)
        for node in settings["loggers"].values()
        if node
    ]


def _meta(job: Job, opening: Opening) -> dict[str, Any]:
    stage = job.stage
    return {
        "stage": job.stage_name,
        "step": stage.step,
        "tokens_seen": stage.tokens_seen,
        "phase": job.plan.at(max(stage.step - 1, 0)).phase.name,
        "cursors": job.order.cursors(stage.step),
        "fingerprint": job.prepared.fingerprint,
        "origin": job.origin,
        "transforms": job.transforms.done,
        "val_before": opening.before,
        "conditions": conditions(),
        "seed": job.settings["seed"],
        "block_tokens": job.prepared.block_tokens,
        "optimizer": job.settings["optimizer"]["_target_"],
        "rope_theta": stage.rope_theta,
        "model": job.settings["model"],
        "tokenizer": str(job.prepared.tokenizer_path),
        "end_of_text": job.prepared.end_of_text,
        "chat_template": job.chat_template,
        **job.told_of_pairs(),
    }
