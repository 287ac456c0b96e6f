"""How far, and where to, a run moves its weight matrices: every so many tokens, at phase ends.

Paper: Zhu et al., The Path Not Taken (arXiv:2511.08567)
Departs: see plm/analysis/update.py.
Cost: a copy of the matrices on the disk; five decompositions a matrix whenever it measures.
"""

import hashlib
import json
import math
import shutil
from collections.abc import Iterator, Mapping
from fnmatch import fnmatch
from pathlib import Path
from typing import Any

import lightning.pytorch as pl
import torch
from torch import Tensor, nn

from plm.analysis.update import NAMES, compare
from plm.batch import Batch
from plm.callbacks.common import due
from plm.checkpoint import write_atomic
from plm.errors import CheckpointError, ConfigError
from plm.evaluation.runner import across_ranks

FOLDER = "update"
BEFORE = "before.safetensors"
FORMAT = 1
KEY = "callbacks.off_principal"


class OffPrincipal(pl.Callback):
    """Puts `update/<figure>` and `update/random/<figure>` into the step's row: plain means over the
    matrices in which they are defined; and all of it into `update/tokens-<tokens>.json`.

    Compared are the weights as the optimizer keeps them (fp32, also in mixed precision) with those
    that the run began with, which lie in `update/before.safetensors` of the run's folder: a run
    that goes on is compared with the same ones. Adapters are measured as part of the weight that
    they adapt. The ranks share the matrices out.

    Args:
        run_dir: the run's folder.
        matrices: patterns of the names of those measured; of the weights, those with two axes.
        k, alpha: see `plm.analysis.update.origin`.
        eta: see `plm.analysis.update.unchanged`.
        every_tokens: how often besides phase ends; 0: there alone.
        seed: of the random updates.
    Raises:
        ConfigError: a setting that cannot be.
    """

    def __init__(
        self,
        run_dir: Path,
        *,
        matrices: list[str] | tuple[str, ...] = ("layers.*",),
        k: int = 8,
        alpha: float = 0.3,
        eta: float = 1e-3,
        every_tokens: int = 0,
        seed: int = 0,
    ) -> None:
        _check(matrices=matrices, k=k, alpha=alpha, eta=eta, every_tokens=every_tokens, seed=seed)
        self.folder, self.patterns = Path(run_dir) / FOLDER, list(matrices)
        self.k, self.alpha, self.eta = k, float(alpha), float(eta)
        self.every, self.seed = every_tokens, seed
        self._resumed: Path | None = None

    def read(self, folder: Path) -> None:
        """The run goes on from this checkpoint; its weights are not those that it began with."""
        self._resumed = folder

    def on_train_start(self, trainer: pl.Trainer, stage: Any) -> None:
        """Keep the weights that the run begins with, or find them again.

        Raises:
            ConfigError: no rank holds all weights, no matrix is named or one is too small; or the
                run began without this callback.
        """
        if not stage.placement.whole_weights:
            raise ConfigError(
                f"{KEY} needs all weights in one process, which FSDP and ZeRO share out; use "
                f"trainer=single or ddp, or {KEY}=null"
            )
        self._check_shapes({name: weight.shape for name, weight in self._chosen(stage.model)})
        if self._resumed is not None:
            self._find(trainer, self._resumed.resolve().parents[1] / FOLDER / BEFORE)
        elif trainer.global_rank == 0:
            self._keep(stage.model)
        trainer.strategy.barrier()

    def _check_shapes(self, shapes: Mapping[str, torch.Size]) -> None:
        if not shapes:
            raise ConfigError(
                f"{KEY}.matrices={self.patterns} names no weight with two axes; layers.* names "
                "those of all layers"
            )
        least = min(shapes, key=lambda name: min(shapes[name]))
        if self.k >= (side := min(shapes[least])):
            raise ConfigError(
                f"{KEY}.k={self.k} leaves nothing of {least}, {list(shapes[least])}, that is not "
                f"principal; at most {side - 1}, or leave it out of {KEY}.matrices"
            )

    def _chosen(self, model: nn.Module) -> Iterator[tuple[str, Tensor]]:
        for name, weight in weights(model):
            if any(fnmatch(name, pattern) for pattern in self.patterns):
                yield name, weight

    def _keep(self, model: nn.Module) -> None:
        from safetensors import SafetensorError
        from safetensors.torch import save_file

        kept = {name: weight.cpu().contiguous() for name, weight in self._chosen(model)}
        partial = self.folder / f".{BEFORE}.partial"
        try:
            self.folder.mkdir(parents=True, exist_ok=True)
            save_file(kept, partial)
            partial.replace(self.folder / BEFORE)
        except (OSError, SafetensorError) as error:
            raise ConfigError(
                f"{self.folder / BEFORE} cannot be written: {error}; make room, or {KEY}=null"
            ) from error

    def _find(self, trainer: pl.Trainer, file: Path) -> None:
        if not file.is_file():
            raise ConfigError(
                f"{KEY}: {file} is missing, so the weights that the run began with are not known; "
                f"begin a new run with it, or {KEY}=null"
            )
        # A checkpoint of another folder was named.
        own = self.folder / BEFORE
        if trainer.global_rank == 0 and file != own.resolve():
            self.folder.mkdir(parents=True, exist_ok=True)
            shutil.copyfile(file, own)

    def on_train_batch_end(
        self, trainer: pl.Trainer, stage: Any, outputs: Any, batch: Batch, batch_idx: int
    ) -> None:
        """After the step's last micro-batch, where it is due."""
        if not batch.last or not due(stage, batch, self.every):
            return
        rank, ranks = trainer.global_rank, trainer.world_size
        parts = [self._measure(stage.model, rank, ranks)]
        if ranks > 1:
            parts = across_ranks(parts[0])
        # In one order, whatever the ranks are.
        found = dict(sorted(item for part in parts for item in part[0].items()))
        means = {
            f"update/{prefix}{name}": value
            for kind, prefix in (("update", ""), ("random", "random/"))
            for name, value in mean(told[kind] for told in found.values()).items()
        }
        # On every rank: the row is written by all of them together.
        stage.row.update(means)
        if rank == 0:
            self._write(trainer, stage, means, found, parts[0][1])

    def _measure(
        self, model: nn.Module, rank: int, ranks: int
    ) -> tuple[dict[str, Any], dict[str, str]]:
        """This rank's matrices; and all that cannot be compared any more, with the reason."""
        from safetensors import SafetensorError, safe_open

        found, left_out = {}, {}
        try:
            with safe_open(self.folder / BEFORE, "pt") as file:
                names = list(file.keys())
                old = {name: file.get_slice(name).get_shape() for name in names}
                left_out = dict.fromkeys(old, "not in the model any more")
                for number, (name, after) in enumerate(self._chosen(model)):
                    left_out.pop(name, None)
                    if old.get(name) != list(after.shape):
                        left_out[name] = f"{old.get(name)} before, {list(after.shape)} now"
                    elif number % ranks == rank:
                        before = file.get_tensor(name).to(after.device)
                        found[name] = compare(
                            before,
                            after,
                            k=self.k,
                            alpha=self.alpha,
                            eta=self.eta,
                            seed=_seed(self.seed, name),
                        )
        except (OSError, SafetensorError) as error:
            raise CheckpointError(f"{self.folder / BEFORE} cannot be read: {error}") from error
        return found, left_out

    def _write(
        self,
        trainer: pl.Trainer,
        stage: Any,
        means: Mapping[str, float],
        found: Mapping[str, Any],
        left_out: Mapping[str, str],
    ) -> None:
        told = {
            "format": FORMAT,
            "tokens_seen": stage.tokens_seen,
            "step": stage.step,
            "precision": str(trainer.precision),
            "device": str(stage.device),
            "weights": "as the optimizer keeps them; *_bf16: both rounded to bf16",
            "settings": {
                "matrices": self.patterns,
                "k": self.k,
                "alpha": self.alpha,
                "eta": self.eta,
                "seed": self.seed,
            },
            "means": means,
            "left_out": left_out,
            "matrices": found,
        }
        path = self.folder / f"tokens-{stage.tokens_seen:015d}.json"
        write_atomic(path, json.dumps(_plain(told), indent=1, allow_nan=False))


def _check(*, matrices: Any, k: Any, alpha: Any, eta: Any, every_tokens: Any, seed: Any) -> None:
    """Raise ConfigError for a setting that cannot be."""

    def whole(value: Any, least: int) -> bool:
        return isinstance(value, int) and not isinstance(value, bool) and value >= least

    def number(value: Any) -> bool:
        return isinstance(value, int | float) and not isinstance(value, bool)

    listed = isinstance(matrices, list | tuple) and len(matrices) > 0
    named = listed and all(isinstance(name, str) for name in matrices)
    checks = {
        "matrices": (matrices, named, "a list of patterns of names"),
        "k": (k, whole(k, 1), "a whole number of 1 or more"),
        "alpha": (alpha, number(alpha) and 0 < alpha < 1, "a share between 0 and 1"),
        "eta": (eta, number(eta) and 0 <= eta < 1, "a share from 0 to below 1"),
        "every_tokens": (every_tokens, whole(every_tokens, 0), "a whole number; 0: at phase ends"),
        "seed": (seed, whole(seed, 0), "a whole number of 0 or more"),
    }
    for name, (value, good, rule) in checks.items():
        if not good:
            raise ConfigError(f"{KEY}.{name}={value} is not {rule}")


@torch.no_grad()
def weights(model: nn.Module) -> Iterator[tuple[str, Tensor]]:
    """A model's weights with two axes, by name; in the place of an adapted one, what it has become
    with its adapter, and no adapters."""
    adapted = {name for name, part in model.named_modules() if hasattr(part, "merged")}
    for name, parameter in model.named_parameters():
        owner, _, own = name.rpartition(".")
        if owner not in adapted:
            weight = parameter
        elif own == "weight":
            weight = model.get_submodule(owner).merged().weight
        else:
            continue
        if weight.ndim == 2:
            yield name, weight.detach()


def mean(rows: Any) -> dict[str, float]:
    """Of each figure, over the rows in which it is finite; without those that are in none."""
    gathered = list(rows)
    found = {name: [row[name] for row in gathered if math.isfinite(row[name])] for name in NAMES}
    return {name: sum(values) / len(values) for name, values in found.items() if values}


def _seed(seed: int, name: str) -> int:
    return int.from_bytes(hashlib.sha256(f"{seed}/{name}".encode()).digest()[:7], "big")


def _plain(value: Any) -> Any:
    """As JSON holds it: what is not finite becomes null."""
    if isinstance(value, Mapping):
        return {name: _plain(own) for name, own in value.items()}
    if isinstance(value, list):
        return [_plain(own) for own in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value
