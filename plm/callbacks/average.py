"""The mean of the weights over the end of a run, beside the weights themselves.

Paper: Izmailov et al., Stochastic weight averaging (arXiv:1803.05407)
Departs: a plain mean over every n-th step from a phase on, at the phase's own rate.
Cost: one more copy of the weights.
"""

from pathlib import Path
from typing import Any

import lightning.pytorch as pl
import torch

from plm.batch import Batch
from plm.errors import ConfigError


class WeightAverage(pl.Callback):
    """Writes `average.safetensors` into every checkpoint from the phase on.

    Args:
        run_dir: unused; every callback is offered the run's folder.
        phase: the mean is begun at its start.
        every_steps: how often the weights enter.
    """

    file = "average.safetensors"

    def __init__(self, run_dir: Path, *, phase: str = "decay", every_steps: int = 5) -> None:
        self.phase, self.every = phase, every_steps
        self.count, self.mean = 0, {}

    def on_train_start(self, trainer: pl.Trainer, stage: Any) -> None:
        """Refuse what cannot work before the first step.

        Raises:
            ConfigError: no rank holds all weights.
        """
        if not stage.placement.whole_weights:
            raise ConfigError(
                "callbacks.average needs all weights in one process, which FSDP and ZeRO share "
                "out; use trainer=single or ddp, or callbacks.average=null"
            )

    def on_train_batch_end(
        self, trainer: pl.Trainer, stage: Any, outputs: Any, batch: Batch, batch_idx: int
    ) -> None:
        """Take the weights in where it is their turn."""
        begun = next((p for p in stage.plan.phases if p.phase.name == self.phase), None)
        if not batch.last or begun is None or stage.step <= begun.first_step:
            return
        if (stage.step - begun.first_step) % self.every == 0:
            self.take(stage.model.state_dict())

    @torch.no_grad()
    def take(self, weights: dict[str, torch.Tensor]) -> None:
        """Let one set of weights enter the mean."""
        self.count += 1
        for name, value in weights.items():
            if name not in self.mean:
                self.mean[name] = value.detach().clone()
            else:
                # Read from a checkpoint it lies on the CPU.
                mean = self.mean[name] = self.mean[name].to(value.device)
                mean += (value - mean) / self.count

    def write(self, folder: Path) -> None:
        """The mean so far, into a checkpoint's folder."""
        from safetensors.torch import save_file

        if self.mean:
            save_file({k: v.contiguous() for k, v in self.mean.items()}, folder / self.file,
                      metadata={"count": str(self.count)})  # fmt: skip

    def read(self, folder: Path) -> None:
        """Go on with the mean that a checkpoint holds."""
        from safetensors import safe_open

        if (folder / self.file).is_file():
            with safe_open(folder / self.file, "pt") as file:
                self.count = int(file.metadata()["count"])
                self.mean = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
