"""Lightning alone up to the first step: what the start of a run is compared with.

Nothing of the project is imported here, so that `python scripts/bench_empty_fit.py` costs what
`import lightning` and an empty fit cost.
"""

import logging
import os
import sys
from typing import Any

import lightning.pytorch as pl
import torch


class LeaveAtFirstStep(pl.Callback):
    """Ends the process as the first step begins.

    Args:
        run_dir: every callback of a run is told; unused.
    """

    def __init__(self, run_dir: Any = None) -> None:
        super().__init__()

    def on_train_batch_start(
        self, trainer: pl.Trainer, stage: Any, batch: Any, batch_idx: int
    ) -> None:
        """Leave with nothing tidied up: only the way to here is of interest."""
        sys.stdout.flush()
        os._exit(0)


class Empty(pl.LightningModule):
    """A module that does nothing."""

    automatic_optimization = False

    def training_step(self, batch: Any, index: int) -> None:
        """Nothing."""

    def configure_optimizers(self) -> None:
        """None."""


def main() -> int:
    """Fit; a return means that no step was begun, which is a failure."""
    logging.getLogger("lightning.pytorch").setLevel(logging.WARNING)
    trainer = pl.Trainer(
        accelerator="cpu",
        max_epochs=1,
        logger=False,
        callbacks=[LeaveAtFirstStep()],
        enable_progress_bar=False,
        enable_model_summary=False,
        enable_checkpointing=False,
    )
    trainer.fit(Empty(), torch.utils.data.DataLoader(torch.zeros(1, 1)))
    return 1


if __name__ == "__main__":
    sys.exit(main())
