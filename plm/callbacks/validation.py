"""Held-out losses while training: before it, every so many tokens, at phase ends, at the end."""

from collections.abc import Callable
from typing import Any

import lightning.pytorch as pl

from plm.batch import Batch
from plm.callbacks.common import due

Figures = dict[str, dict[str, float]]


class Validation(pl.Callback):
    """Puts `val/<source>/loss` and `val/<source>/bpb` into the step's row.

    Args:
        evaluate: `() -> {source: {"loss", "bpb"}}`.
        every_tokens: how often; 0: at phase ends only.
    """

    def __init__(self, evaluate: Callable[[], Figures], every_tokens: int) -> None:
        self.evaluate, self.every = evaluate, every_tokens
        self.latest: Figures = {}

    def on_train_batch_end(
        self, trainer: pl.Trainer, stage: Any, outputs: Any, batch: Batch, batch_idx: int
    ) -> None:
        """After the step's last micro-batch, where it is due."""
        if batch.last and due(stage, batch, self.every):
            self.latest = self.evaluate()
            stage.row.update(row(self.latest))


def row(figures: Figures) -> dict[str, float]:
    """Columns of metrics.csv; `val/loss` is the plain mean over the sources."""
    found = {
        f"val/{source}/{name}": value
        for source, values in figures.items()
        for name, value in values.items()
    }
    found["val/loss"] = sum(v["loss"] for v in figures.values()) / max(len(figures), 1)
    return found
