"""Micro-batches of one rank from memory-mapped shards, in the order of `plm.data.order`."""

from collections.abc import Iterator
from typing import Protocol

import numpy as np
import torch
from torch.utils.data import IterableDataset

from plm.batch import IGNORE_INDEX, Batch
from plm.data.order import Order, Windows
from plm.errors import ConfigError


class Stream(Protocol):
    """A source's concatenated documents."""

    doc_starts: np.ndarray

    def tokens(self, start: int, count: int) -> np.ndarray:
        """[count] tokens from place `start` on."""


def assemble(streams: list[Stream], windows: Windows, isolate: bool) -> dict[str, torch.Tensor]:
    """Read windows into tensors.

    Args:
        streams: one a source, in the order that `windows.source` counts.
        windows: n rows.
        isolate: number the documents, restart positions, drop labels that cross into another one.
    Returns:
        tokens, labels, positions [n, T] int64, and doc_ids [n, T] int64 if isolate.
    """
    rows, seq_len = len(windows.offset), windows.seq_len
    text = np.empty((rows, seq_len + 1), dtype=np.int64)
    starts = np.zeros((rows, seq_len + 1), dtype=bool)
    for row, (source, offset) in enumerate(zip(windows.source, windows.offset, strict=True)):
        stream = streams[source]
        text[row] = stream.tokens(int(offset), seq_len + 1)
        if isolate:
            low, high = np.searchsorted(stream.doc_starts, (offset + 1, offset + seq_len + 1))
            starts[row, stream.doc_starts[low:high] - offset] = True
    labels = text[:, 1:].copy()
    place = np.arange(seq_len, dtype=np.int64)
    found = {"tokens": text[:, :-1], "labels": labels}
    if isolate:
        labels[starts[:, 1:]] = IGNORE_INDEX
        inside = starts[:, :-1]
        found["doc_ids"] = inside.cumsum(axis=1, dtype=np.int64)
        begun = np.maximum.accumulate(np.where(inside, place, 0), axis=1)
        found["positions"] = place - begun
    else:
        found["positions"] = np.broadcast_to(place, (rows, seq_len)).copy()
    return {name: torch.from_numpy(np.ascontiguousarray(value)) for name, value in found.items()}


def cumulative_lengths(positions: torch.Tensor) -> torch.Tensor:
    """[B * T + 1] int32: where documents start in the flattened tokens, padded with B * T.

    The length is fixed by the shape, so that a compiled kernel never sees another one.
    """
    flat = positions.flatten()
    padded = torch.full((flat.numel() + 1,), flat.numel(), dtype=torch.int32)
    begins = torch.nonzero(flat == 0).flatten().to(torch.int32)
    padded[: begins.numel()] = begins
    return padded


class Batches(IterableDataset):
    """All micro-batches of one rank from a step on.

    Args:
        order: which windows a step reads.
        streams: by the order's source numbers.
        micro_batch_size: rows of one forward.
        rank, world_size: which share of each global batch is read.
        start_step, end_step: steps [start_step, end_step).
    Raises:
        ConfigError: a global batch does not divide over the ranks.
    """

    def __init__(
        self,
        order: Order,
        streams: list[Stream],
        *,
        micro_batch_size: int,
        rank: int = 0,
        world_size: int = 1,
        start_step: int = 0,
        end_step: int | None = None,
    ) -> None:
        super().__init__()
        if micro_batch_size < 1:
            raise ConfigError(f"micro_batch_size={micro_batch_size} must be at least 1")
        for planned in order.plan.phases:
            if planned.rows % world_size:
                raise ConfigError(
                    f"phases.{planned.phase.name}.global_batch_tokens gives {planned.rows} windows "
                    f"a step, which {world_size} processes cannot share evenly; "
                    f"use a multiple of {world_size * planned.phase.seq_len}"
                )
        self.order, self.streams, self.micro = order, streams, micro_batch_size
        self.rank, self.world_size = rank, world_size
        self.start_step = start_step
        self.end_step = order.plan.total_steps if end_step is None else end_step

    def __iter__(self) -> Iterator[Batch]:
        for step in range(self.start_step, self.end_step):
            yield from self.step(step)

    def step(self, step: int) -> Iterator[Batch]:
        """This rank's micro-batches of one step."""
        planned = self.order.plan.at(step)
        share = planned.rows // self.world_size
        windows = self.order.windows(step, self.rank * share, (self.rank + 1) * share)
        whole = assemble(self.streams, windows, planned.phase.isolate_documents)
        kept = int((whole["labels"] != IGNORE_INDEX).sum())
        source = torch.from_numpy(windows.source)
        for low in range(0, share, self.micro):
            part = slice(low, min(low + self.micro, share))
            tensors = {name: value[part] for name, value in whole.items()}
            isolated = planned.phase.isolate_documents
            yield Batch(
                **tensors,
                cu_seqlens=cumulative_lengths(tensors["positions"]) if isolated else None,
                step=step,
                tokens_seen=self.order.plan.tokens_before(step),
                rows_in_step=planned.rows,
                kept_in_step=kept,
                first=low == 0,
                first_row=self.rank * share + low,
                last=low + self.micro >= share,
                phase=planned.phase.name,
                source_ids=source[part],
            )
