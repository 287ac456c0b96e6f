"""What the reference gives the answers of all pairs, computed once; and held-out figures of pairs.

Both go through the windows one after another without gradients, shared out over the ranks.
"""

import logging
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from plm.data.loader import assemble, cumulative_lengths
from plm.data.order import Windows
from plm.errors import CheckpointError
from plm.model.context import Context
from plm.pairs.logps import pair_logps
from plm.preference.common import PairLogps

log = logging.getLogger("plm")

FILE = "reference.safetensors"


class Reference:
    """Log-probabilities of all parts under the reference.

    Args:
        tables: of each source's train split and held-out split, `<source>/train` and
            `<source>/val`, [parts, 2] fp32: the better and the worse answer's, NaN for parts that
            the run does not read.
        names: the sources in the order that batches number them in.
    """

    def __init__(self, tables: Mapping[str, Tensor], names: list[str]) -> None:
        self.tables, self.names = dict(tables), names
        train = [self.tables[f"{name}/train"] for name in names]
        self.offsets = torch.tensor([0, *(len(t) for t in train)]).cumsum(0)[:-1]
        self.train = torch.cat(train)

    def of(self, parts: Tensor, source_ids: Tensor) -> Tensor:
        """[N, 2] of a batch's parts, row by row.

        Args:
            parts: [B, P] int64, below 0 where there is none.
            source_ids: [B] int64.
        """
        self.train, self.offsets = self.train.to(parts.device), self.offsets.to(parts.device)
        return self.train[(self.offsets[source_ids][:, None] + parts)[parts >= 0]]

    @classmethod
    def made(cls, job: Any) -> "Reference":
        """Run the reference over all pairs: the model as it begins, or the one that is named."""
        model = _reference_model(job)
        names, tables = job.order.names, {}
        read = {f"{name}/train": starts for name, starts in _read(job).items()}
        streams = {f"{name}/train": job.prepared.streams[name] for name in names}
        for name in names:
            stream = streams[f"{name}/val"] = job.prepared.held_out[name]
            # All of them: how many are looked at may change when the run goes on.
            read[f"{name}/val"] = np.arange(stream.n_windows, dtype=np.int64) * stream.size
        total = sum(map(len, read.values()))
        log.info("reference log-probabilities of the pairs in %s windows, once", f"{total:,}")
        with job.stage.trainer.precision_plugin.val_step_context():
            for key, stream in streams.items():
                tables[key] = _table(job, model, stream, read[key])
        return cls(tables, names)

    def write(self, folder: Path) -> None:
        """Keep them in a folder."""
        save_file(
            {k: t.contiguous() for k, t in self.tables.items()},
            folder / FILE,
            metadata={"names": "\n".join(self.names)},
        )

    @classmethod
    def read(cls, folder: Path) -> "Reference":
        """From a folder that `write` wrote to.

        Raises:
            CheckpointError: it has none.
        """
        from safetensors import safe_open

        file = folder / FILE
        if not file.is_file():
            raise CheckpointError(
                f"{file} is missing: the checkpoint is not one of stage=preference"
            )
        with safe_open(file, "pt") as opened:
            names = (opened.metadata() or {}).get("names", "").split("\n")
        return cls(load_file(file), names)


def _reference_model(job: Any) -> nn.Module:
    named = job.settings.get("reference")
    if not named:
        return job.stage.model
    from plm import handoff, pretrained

    found = pretrained.load(named)
    if found.tokenizer is not None:
        handoff.new_ids(handoff.find(named, "weights", ""), job.prepared.tokenizer_path, [])
    return found.model.to(job.stage.device).eval()


def _read(job: Any) -> dict[str, np.ndarray]:
    """Where the windows begin that the run reads, by source."""
    order, found = job.order, {name: [] for name in job.order.names}
    for planned in order.plan.phases:
        windows = order.windows_of(planned.first_step, planned.steps)
        for number, name in enumerate(order.names):
            found[name].append(windows.offset[windows.source == number])
    return {name: np.unique(np.concatenate(parts)) for name, parts in found.items()}


def _measured(stream: Any, windows: int) -> np.ndarray:
    """Where the held-out windows begin that are looked at, evenly spread."""
    count = min(windows, stream.n_windows)
    return np.arange(count, dtype=np.int64) * stream.n_windows // max(count, 1) * stream.size


def _table(job: Any, model: nn.Module, stream: Any, starts: np.ndarray) -> Tensor:
    """[parts, 2]; NaN for those in no window that is read."""
    device = job.stage.device
    table = torch.zeros(stream.n_parts, 2, device=device)
    shared = {"rank": job.rank, "world_size": job.world, "device": device}
    rows = job.settings["micro_batch_size"]
    theta = job.stage.rope_theta
    for parts, found, real in scored(model, stream, starts, rows=rows, rope_theta=theta, **shared):
        both = torch.stack((found.chosen, found.rejected), -1).float()
        table[parts[real]] = both[real]
    if job.world > 1:
        torch.distributed.all_reduce(table)
    within = stream.extras(starts)["parts"]
    unread = np.setdiff1d(np.arange(stream.n_parts), within[within >= 0])
    table[torch.from_numpy(unread).to(device)] = torch.nan
    return table.cpu()


@torch.no_grad()
def scored(
    model: nn.Module,
    stream: Any,
    starts: np.ndarray,
    *,
    rows: int,
    device: torch.device,
    rope_theta: float | None,
    rank: int = 0,
    world_size: int = 1,
) -> Iterator[tuple[Tensor, PairLogps, Tensor]]:
    """Forward windows, this rank's share of them.

    Args:
        model: its mode is restored.
        stream: pairs, see `plm.data.packing`.
        starts: [n] int64, where the windows begin.
        rows: windows at a time.
    Yields:
        numbers of the parts [N]; their log-probabilities; and [N] bool, whether they are the
        rank's own: every rank runs as many forwards as the others, since sharded weights are
        gathered together.
    """
    training = model.training
    model.eval()
    share = -(-len(starts) // world_size)
    mine = np.arange(rank * share, (rank + 1) * share)
    for low in range(0, share, rows):
        index = mine[low : low + rows]
        offset = starts[np.minimum(index, len(starts) - 1)]
        zeros = np.zeros(len(index), dtype=np.int64)
        found = assemble([stream], Windows(zeros, offset, zeros, stream.size), True)
        context = Context(
            positions=found["positions"].to(device),
            doc_ids=found["doc_ids"].to(device),
            cu_seqlens=cumulative_lengths(found["positions"]).to(device),
            rope_theta=rope_theta,
        )
        given = {name: found[name].to(device) for name in ("doc_ids", "parts", "shown")}
        logps = model(
            found["tokens"].to(device),
            context=context,
            labels=found["labels"].to(device),
            losses={"pairs": _Scorer(given)},
        ).losses["pairs"]
        there = given["parts"] >= 0
        real = torch.from_numpy(index < len(starts)).to(device)[:, None].expand_as(there)
        yield given["parts"][there], logps, real[there]
    model.train(training)


class _Scorer:
    """In a loss's place: it runs where the head's weight is whole."""

    def __init__(self, given: dict[str, Tensor]) -> None:
        self.given = given

    def __call__(
        self, hidden: Tensor, head_weight: Tensor, labels: Tensor, kernels: str = "auto"
    ) -> Any:
        return pair_logps(hidden, head_weight, labels, kernels=kernels, **self.given)


def measure(
    stage: Any,
    model: nn.Module,
    streams: Mapping[str, Any],
    *,
    windows: int,
    micro_batch_size: int,
    device: torch.device,
    rope_theta: float | None,
    rank: int,
    world_size: int,
    **_: Any,
) -> dict[str, dict[str, float]]:
    """Loss, accuracy, and margin in nats of each source's held-out pairs, on the same windows every
    time."""
    found = {}
    for name, stream in streams.items():
        starts = _measured(stream, windows)
        sums: dict[str, Tensor] = {}
        table = None
        if stage.reference is not None:
            table = stage.reference.tables[f"{name}/val"].to(device)
        shared = {"rank": rank, "world_size": world_size, "device": device}
        for parts, logps, real in scored(
            model, stream, starts, rows=micro_batch_size, rope_theta=rope_theta, **shared
        ):
            own = PairLogps(*(values[real] for values in logps))
            if len(own.chosen):
                loss, said = stage.judge(own, None if table is None else table[parts[real]])
                for key, value in {"loss": loss, **said}.items():
                    both = torch.stack((value.total.double(), value.count.double().to(device)))
                    sums[key] = sums.get(key, torch.zeros(2, device=device).double()) + both
        found[name] = _means(sums, world_size, device)
    return found


_MEASURED = {"loss": "loss", "accuracy": "pref/accuracy", "margin": "pref/margin"}


def _means(sums: dict[str, Tensor], world_size: int, device: torch.device) -> dict[str, float]:
    zero = torch.zeros(2, device=device).double()
    both = torch.stack([sums.get(key, zero) for key in _MEASURED.values()])
    if world_size > 1:
        torch.distributed.all_reduce(both)
    return {
        name: total / count if count else float("nan")
        for name, (total, count) in zip(_MEASURED, both.tolist(), strict=True)
    }
