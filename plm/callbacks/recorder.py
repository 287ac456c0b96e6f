"""What a step tells: a row of metrics.csv, the loggers, the progress line."""

import time
from collections.abc import Callable
from functools import partial
from typing import Any

import lightning.pytorch as pl
from torch import Tensor, nn

from plm.batch import Batch
from plm.callbacks.progress import Progress
from plm.metrics import MetricsTable, peak_gib


class Recorder(pl.Callback):
    """Reads the device's sums every so many steps.

    Args:
        table: metrics.csv.
        every_steps: how often a row is written; the first, evaluated and last steps have one too.
        flops_per_token: of a training step, by sequence length.
        peak_flops: FLOP/s of all devices together; 0: unknown, MFU is left out.
        order: what was read so far.
        progress: the line on the terminal; None on other ranks than 0.
        elapsed: seconds that earlier processes of this run took.
    """

    def __init__(
        self,
        table: MetricsTable,
        *,
        every_steps: int,
        flops_per_token: Any,
        peak_flops: float,
        order: Any,
        progress: Progress | None,
        elapsed: float = 0.0,
    ) -> None:
        self.table, self.every = table, every_steps
        self.flops_per_token, self.peak = flops_per_token, peak_flops
        self.order, self.progress = order, progress
        self.elapsed, self._started = elapsed, time.perf_counter()
        self._tokens, self._seconds, self._wait, self._before = 0, 0.0, 0.0, 0.0
        self._ended, self._flops = time.perf_counter(), 0.0
        self._zeros: dict[str, Tensor] = {}
        self._release: list[Callable[[], Any]] = []
        self.loss: float | None = None
        self.speed = {"tokens": 0, "seconds": 0.0, "flops": 0.0}

    def on_train_start(self, trainer: pl.Trainer, stage: Any) -> None:
        """The wait for the first batch begins."""
        self._ended = time.perf_counter()

    def _listen(self, stage: Any) -> None:
        """Listen to the sparse activations of each layer, for one micro-batch.

        By a hook, which keeps a feed-forward from being fused, only where the activation has no
        `observe`. Compiled layers are left out, a hook would cut each of them in two.
        """
        for index, layer in enumerate([] if stage.compiled else stage.model.layers):
            for module in layer.modules():
                if not getattr(module, "sparse", False):
                    continue
                count = self._count(str(index), module)
                if hasattr(module, "observe"):
                    module.observe = count
                    self._release.append(partial(setattr, module, "observe", None))
                else:
                    hook = module.register_forward_hook(lambda _, args, out, tell=count: tell(out))
                    self._release.append(hook.remove)

    def _count(self, layer: str, module: nn.Module) -> Callable[[Tensor], None]:
        def count(output: Tensor) -> None:
            if module.training:
                self._zeros[layer] = (output.detach() == 0).float().mean()

        return count

    def on_train_batch_start(
        self, trainer: pl.Trainer, stage: Any, batch: Batch, batch_idx: int
    ) -> None:
        """How long the step waited for its data; whether it is one to look at."""
        waited = time.perf_counter() - self._ended
        self._wait += waited
        if batch.first:
            # What passes between a step's micro-batches is in its own time already.
            self._before += waited
        if batch.last and self._due(stage, batch.step):
            self._listen(stage)

    def _due(self, stage: Any, step: int) -> bool:
        return step % self.every == 0 or step + 1 == stage.plan.total_steps

    def on_train_batch_end(
        self, trainer: pl.Trainer, stage: Any, outputs: Any, batch: Batch, batch_idx: int
    ) -> None:
        """Write the row that is due."""
        while self._release:
            self._release.pop()()
        if batch.last:
            tokens, length = stage.worked(batch)
            self._tokens += tokens
            self._flops += tokens * self.flops_per_token(length)
            self._seconds, stage.step_seconds = self._seconds + stage.step_seconds, 0.0
            if self._due(stage, batch.step) or stage.row:
                self._write(trainer, stage, batch)
            if self.progress is not None:
                per_s = self.speed["tokens"] / max(self.speed["seconds"], 1e-9)
                seen = stage.tokens_seen - stage.plan.origin_tokens
                self.progress.update(seen, self.loss, stage.lr, batch.phase, per_s)
        self.through()

    def through(self) -> None:
        """From now on the next batch is waited for."""
        self._ended = time.perf_counter()

    def _write(self, trainer: pl.Trainer, stage: Any, batch: Batch) -> None:
        means = stage.sums.means()
        self.loss = means.pop(stage.main_loss, float("nan"))
        seconds = self._seconds + self._before
        self.speed["tokens"] += self._tokens
        self.speed["seconds"] += seconds
        self.speed["flops"] += self._flops
        row: dict[str, Any] = {
            "step": stage.step,
            "tokens": stage.tokens_seen,
            "phase": batch.phase,
            "loss": self.loss,
            "lr": stage.lr,
            "grad_norm": float(stage.grad_norm),
            "tokens_per_s": self._tokens / max(seconds, 1e-9),
            "mfu": self._flops / max(seconds, 1e-9) / self.peak if self.peak else None,
            "peak_gib": peak_gib(stage.device),
            "data_wait_s": self._wait,
            "elapsed_s": self.elapsed + time.perf_counter() - self._started,
            "bad_steps": stage.bad_steps,
        }
        row |= {n if "/" in n else f"aux/{n}": value for n, value in means.items()}
        row |= {f"sparsity/{layer}": float(value) for layer, value in self._zeros.items()}
        row |= {f"mix/{name}": n for name, n in self.order.cursors(stage.step).items()}
        row |= stage.row
        stage.row = {}
        self._tokens, self._seconds, self._wait, self._before = 0, 0.0, 0.0, 0.0
        self._flops = 0.0
        self._zeros = {}
        if trainer.global_rank == 0:
            self.table.add(row)
            for logger in trainer.loggers:
                figures = {k: v for k, v in row.items() if isinstance(v, int | float)}
                logger.log_metrics(figures, step=stage.step)

    def total_elapsed(self) -> float:
        """Seconds of the run so far, over all its processes."""
        return self.elapsed + time.perf_counter() - self._started
