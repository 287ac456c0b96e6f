"""Tasks of configs/task on the model in training: every so many tokens, and at the end."""

import math
import time
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import lightning.pytorch as pl

from plm.batch import Batch
from plm.errors import ConfigError
from plm.evaluation import choices, stored
from plm.evaluation.common import Result, Share
from plm.evaluation.runner import across_ranks, evaluate, undisturbed
from plm.evaluation.subject import Subject, subject_of


class Evaluation(pl.Callback):
    """Puts `eval/<task>/<figure>` into the step's row, and all outcomes into the run's folder.

    The ranks share the items out. Weights, modes, gradients and generators stay as they were.

    Args:
        run_dir: the run's folder; `evaluations/tokens-<tokens>.json` is written there.
        tasks: by name, built; lm-eval's run on rank 0 alone while the others wait.
        every_tokens: how often; 0: not on the way.
        at_end: after the last step as well.
        prompt: auto, chat or text, as for `plm.evaluation.subject.subject_of`.
        rows: sequences that go through the model at a time.
    Raises:
        ConfigError: nothing would ever be evaluated.
    """

    def __init__(
        self,
        run_dir: Path,
        *,
        tasks: Mapping[str, Any],
        every_tokens: int = 0,
        at_end: bool = True,
        prompt: str = "auto",
        rows: int = 32,
    ) -> None:
        if every_tokens < 0 or not (every_tokens or at_end) or not tasks:
            raise ConfigError(
                f"callbacks.evaluation: every_tokens={every_tokens}, at_end={at_end} and "
                f"{len(tasks)} tasks: nothing would be evaluated"
            )
        for name, task in tasks.items():
            if not hasattr(task, "result"):
                raise ConfigError(
                    f"callbacks.evaluation.tasks.{name} is no single task: choose each of its own"
                )
        self.run_dir, self.tasks = Path(run_dir), dict(tasks)
        self.every, self.at_end, self.style, self.rows = every_tokens, at_end, prompt, rows

    def on_train_start(self, trainer: pl.Trainer, stage: Any) -> None:
        """Refuse what cannot work before the first step.

        Raises:
            ConfigError: no rank holds all weights, or a task cannot be had.
        """
        if not stage.placement.whole_weights:
            raise ConfigError(
                "callbacks.evaluation needs all weights in one process, which FSDP and ZeRO share "
                "out; use trainer=single or ddp, or scripts/evaluate.py on the checkpoints"
            )
        with undisturbed(stage.model):
            subject = self._subject(trainer, stage)
            choices.check(subject, self.tasks, "callbacks.evaluation.tasks.")

    def on_train_batch_end(
        self, trainer: pl.Trainer, stage: Any, outputs: Any, batch: Batch, batch_idx: int
    ) -> None:
        """After the step's last micro-batch, where it is due."""
        if not batch.last or not self._due(stage, batch):
            return
        ranks = trainer.world_size
        found = evaluate(
            self._subject(trainer, stage),
            self.tasks,
            share=Share(trainer.global_rank, ranks),
            gather=across_ranks if ranks > 1 else lambda part: [part],
        )
        # On every rank: the row is written by all of them together.
        stage.row.update(row(found))
        if trainer.global_rank == 0:
            self._write(trainer, stage, found)

    def _due(self, stage: Any, batch: Batch) -> bool:
        last = self.at_end and stage.step == stage.plan.total_steps
        passed = self.every and stage.tokens_seen // self.every > batch.tokens_seen // self.every
        return bool(last or passed)

    def _subject(self, trainer: pl.Trainer, stage: Any) -> Subject:
        from plm.pretrained import Pretrained

        # The run's parts, as the first of its callbacks holds them.
        job = next(callback.job for callback in trainer.callbacks if hasattr(callback, "job"))
        found = Pretrained(
            path=self.run_dir,
            model=stage.model,
            tokenizer=job.prepared.tokenizer_path,
            end_of_text=job.prepared.end_of_text,
            rope_theta=stage.rope_theta,
            run=self.run_dir,
            meta={"fingerprint": job.prepared.fingerprint, **job.told_of_pairs()},
            chat_template=job.chat_template,
        )
        plugin = trainer.precision_plugin
        return subject_of(
            found, prompt=self.style, rows=self.rows, device_context=plugin.val_step_context
        )

    def _write(self, trainer: pl.Trainer, stage: Any, found: Mapping[str, Result]) -> None:
        subject = self._subject(trainer, stage)
        about = {
            "name": f"tokens-{stage.tokens_seen:015d}",
            "run": self.run_dir.name,
            "tokens_seen": stage.tokens_seen,
            "step": stage.step,
            "time": time.time(),
            "ranks": trainer.world_size,
            "precision": str(trainer.precision),
            "conditions": stored.conditions(subject),
        }
        stored.write(self.run_dir / stored.FOLDER / f"{about['name']}.json", about, dict(found))


def row(results: Mapping[str, Result]) -> dict[str, float]:
    """Columns of metrics.csv; what could not be measured has none."""
    return {
        f"eval/{task}/{name}": figure.value
        for task, result in results.items()
        for name, figure in result.figures.items()
        if math.isfinite(figure.value)
    }


def latest(callbacks: Iterable[Any]) -> dict[str, dict[str, Any]]:
    """The newest figures of a trainer's callbacks, for summary.json: task, figure, its spread.

    From the files, since the process that evaluated last need not be the one that ends the run.
    """
    return {
        task: told["figures"]
        for callback in callbacks
        if isinstance(callback, Evaluation) and stored.files(callback.run_dir)
        for task, told in stored.newest(callback.run_dir).items()
    }
