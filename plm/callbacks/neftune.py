"""Noise on the embeddings of fine-tuning, smaller for longer documents.

Paper: Jain et al., NEFTune (arXiv:2310.05914)
Departs: the length is that of the document, not of the padded or packed row that it lies in, so
that packing does not change the noise.
"""

import hashlib
from pathlib import Path
from typing import Any

import lightning.pytorch as pl
import torch
from torch import Tensor

from plm.batch import Batch
from plm.errors import ConfigError


def amplitudes(batch: Batch, hidden_size: int, alpha: float) -> Tensor:
    """[B, T] fp32: alpha / sqrt(length of the document · hidden_size) at each of its tokens."""
    rows, length = batch.tokens.shape
    if batch.doc_ids is None:
        sizes = torch.full((rows, length), float(length), device=batch.tokens.device)
    else:
        number = batch.doc_ids + torch.arange(rows, device=batch.doc_ids.device)[:, None] * length
        sizes = torch.bincount(number.flatten(), minlength=rows * length)[number].float()
    return alpha * (sizes * hidden_size).rsqrt()


class NEFTune(pl.Callback):
    """Adds uniform noise to every token's embedding, in training alone.

    The noise of a row is a function of (seed, step, row of the global batch): neither the number of
    ranks nor the micro-batch changes it.

    Args:
        run_dir: the run's folder; nothing is written there.
        alpha: the paper's, 5 to 15.
    Raises:
        ConfigError: alpha is negative.
    """

    changes_training = True
    """A run with it is another run than one without."""

    def __init__(self, run_dir: Path, *, alpha: float) -> None:
        if alpha < 0:
            raise ConfigError(f"callbacks.neftune.alpha={alpha} is negative; 0 adds no noise")
        self.alpha = alpha
        self.batch: Batch | None = None
        self.seed = 0

    def on_train_start(self, trainer: pl.Trainer, stage: Any) -> None:
        """From here on the embeddings of a training batch are changed."""
        self.seed = stage.seed
        stage.model.embedded.register_forward_hook(self._add)

    def on_train_batch_start(
        self, trainer: pl.Trainer, stage: Any, batch: Batch, batch_idx: int
    ) -> None:
        """The batch whose embeddings come next."""
        self.batch = batch

    def on_train_batch_end(
        self, trainer: pl.Trainer, stage: Any, outputs: Any, batch: Batch, batch_idx: int
    ) -> None:
        """What follows is no training batch."""
        self.batch = None

    def _add(self, tap: torch.nn.Module, given: Any, hidden: Tensor) -> Tensor:
        # A validation may come before this callback hears that the step has ended.
        if self.batch is None or not self.alpha or not tap.training:
            return hidden
        noise = torch.stack([self._noise(row, hidden) for row in range(len(hidden))])
        scale = amplitudes(self.batch, hidden.shape[-1], self.alpha)
        return hidden + (noise * scale[..., None]).to(hidden.dtype)

    def _noise(self, row: int, hidden: Tensor) -> Tensor:
        """[T, D] fp32, uniform in [-1, 1)."""
        assert self.batch is not None
        text = f"neftune/{self.seed}/{self.batch.step}/{self.batch.first_row + row}"
        key = int.from_bytes(hashlib.sha256(text.encode()).digest()[:7], "big")
        generator = torch.Generator(hidden.device).manual_seed(key)
        return torch.rand(hidden.shape[1:], generator=generator, device=hidden.device) * 2 - 1
