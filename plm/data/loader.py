"""Micro-batches of one rank from memory-mapped shards, in the order of `plm.data.order`."""

from collections.abc import Iterator
from functools import lru_cache
from typing import Protocol

import numpy as np
import torch
from torch.utils.data import IterableDataset, get_worker_info

from plm.batch import IGNORE_INDEX, Batch
from plm.data.order import Order, Windows
from plm.errors import ConfigError
from plm.phases import PlannedPhase

_ROWS_AHEAD = 16_384
_EXTRAS = ("parts", "shown")


class Stream(Protocol):
    """A source's concatenated documents.

    One that fills windows up also has `filled(offsets [n], size) -> bool [n, size]`: which places
    hold no text. One of pairs also has `extras(offsets [n]) -> {name: [n, P]}` and `most_parts`, P,
    see plm.data.pair_stream.
    """

    doc_starts: np.ndarray

    def windows(self, offsets: np.ndarray, size: int) -> np.ndarray:
        """[n, size] tokens from each of the places `offsets` on."""


def assemble(streams: list[Stream], windows: Windows, isolate: bool) -> dict[str, torch.Tensor]:
    """Read windows into tensors.

    Args:
        streams: one a source, in the order that `windows.source` counts.
        windows: n rows.
        isolate: number the documents, restart positions, drop labels that cross into another one.
    Returns:
        tokens, labels, positions [n, T] int64, and doc_ids [n, T] int64 if isolate. Labels of
        places that a source marks as filled up are dropped, too. Where there are pairs also parts
        and shown [n, P] int64, -1 behind a row's last part, P the most parts of any row of any
        source.
    """
    rows, seq_len = len(windows.offset), windows.seq_len
    text = np.empty((rows, seq_len + 1), dtype=np.int64)
    begins, filled = [], []
    for number in np.unique(windows.source):
        chosen = np.flatnonzero(windows.source == number)
        stream, offsets = streams[number], windows.offset[chosen]
        text[chosen] = stream.windows(offsets, seq_len + 1)
        if isolate:
            begins.append(_starts(stream.doc_starts, offsets, chosen, seq_len + 1))
        if hasattr(stream, "filled"):
            filled.append((chosen, stream.filled(offsets + 1, seq_len)))
    # Copies: a slice of a single row is contiguous, and would be written through.
    labels = text[:, 1:].copy()
    found = {"tokens": text[:, :-1].copy(), "labels": labels}
    for chosen, places in filled:
        labels[chosen] = np.where(places, IGNORE_INDEX, labels[chosen])
    if isolate:
        found |= _isolated(np.concatenate(begins, axis=1), labels)
    else:
        found["positions"] = _counting(rows, seq_len)
    if any(hasattr(stream, "extras") for stream in streams):
        found |= _extras(streams, windows)
    return {name: torch.from_numpy(value) for name, value in found.items()}


def _extras(streams: list[Stream], windows: Windows) -> dict[str, np.ndarray]:
    width = max(getattr(stream, "most_parts", 0) for stream in streams)
    shape = len(windows.offset), width
    found = {name: np.full(shape, -1, dtype=np.int64) for name in _EXTRAS}
    for number in np.unique(windows.source):
        if not hasattr(streams[number], "extras"):
            continue
        chosen = np.flatnonzero(windows.source == number)
        for name, values in streams[number].extras(windows.offset[chosen]).items():
            found[name][chosen, : values.shape[1]] = values
    return found


@lru_cache(maxsize=8)
def _counting(rows: int, seq_len: int) -> np.ndarray:
    return np.tile(np.arange(seq_len, dtype=np.int64), (rows, 1))


def _starts(doc_starts: np.ndarray, offsets: np.ndarray, rows: np.ndarray, size: int) -> np.ndarray:
    """[2, N]: row, and place in its window, of each document that starts after a window's first."""
    low = np.searchsorted(doc_starts, offsets + 1)
    many = np.searchsorted(doc_starts, offsets + size) - low
    window = np.repeat(np.arange(len(offsets)), many)
    # 0, 1, 2 … within each window.
    nth = np.arange(len(window)) - np.repeat(many.cumsum() - many, many)
    return np.stack([rows[window], doc_starts[low[window] + nth] - offsets[window]])


def _isolated(starts: np.ndarray, labels: np.ndarray) -> dict[str, np.ndarray]:
    """doc_ids and positions; labels that would be predicted from another document are dropped.

    Args:
        starts: [2, N], of `_starts`.
        labels: [n, T], changed in place.
    """
    rows, seq_len = labels.shape
    labels[starts[0], starts[1] - 1] = IGNORE_INDEX
    inside = starts[:, starts[1] < seq_len]
    # Every row begins a document, too.
    begins = np.concatenate([np.arange(rows) * seq_len, inside[0] * seq_len + inside[1]])
    # A document of no tokens begins where the next one does.
    begins = np.unique(begins)
    lengths = np.diff(begins, append=rows * seq_len)
    row = begins // seq_len
    number = np.arange(len(begins)) - np.searchsorted(row, np.arange(rows))[row]
    positions = np.arange(rows * seq_len) - np.repeat(begins, lengths)
    doc_ids = np.repeat(number, lengths)
    return {
        "positions": positions.reshape(rows, seq_len),
        "doc_ids": doc_ids.reshape(rows, seq_len),
    }


def _kept(found: dict[str, torch.Tensor], streams: list[Stream]) -> int:
    """Labels that take part; of pairs their parts."""
    if "parts" in found:
        return int((found["parts"] >= 0).sum())
    labels = found["labels"]
    if "doc_ids" not in found and not any(hasattr(stream, "filled") for stream in streams):
        return labels.numel()
    return int((labels != IGNORE_INDEX).sum())


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
        ConfigError: a global batch does not divide over the ranks, or pairs are mixed with other
            sources.
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
        _check_alike(order, streams)
        self.order, self.streams, self.micro = order, streams, micro_batch_size
        self.rank, self.world_size = rank, world_size
        self._ahead: tuple[int, int, Windows] | None = None
        self.start_step = start_step
        self.end_step = order.plan.total_steps if end_step is None else end_step

    def __iter__(self) -> Iterator[Batch]:
        # Workers of a DataLoader take turns, and are asked in turn: together they keep the order.
        worker = get_worker_info()
        number, workers = (worker.id, worker.num_workers) if worker else (0, 1)
        index = 0
        for step in range(self.start_step, self.end_step):
            parts = -(-(self.order.plan.at(step).rows // self.world_size) // self.micro)
            if any((index + part) % workers == number for part in range(min(parts, workers))):
                for part, batch in enumerate(self.step(step)):
                    if (index + part) % workers == number:
                        yield batch
            index += parts

    def _windows(self, step: int, planned: PlannedPhase, share: int) -> Windows:
        """This rank's rows of a step; made for many steps at once, which costs little more."""
        first, last, found = self._ahead or (0, 0, None)
        if found is None or not first <= step < last:
            end = min(planned.first_step + planned.steps, self.end_step)
            last = max(step + 1, min(step + max(1, _ROWS_AHEAD // share), end))
            own = self.rank * share, (self.rank + 1) * share
            first, found = step, self.order.windows_of(step, last - step, *own)
            self._ahead = first, last, found
        rows = slice((step - first) * share, (step - first + 1) * share)
        return Windows(found.source[rows], found.offset[rows], found.epoch[rows], found.seq_len)

    def step(self, step: int) -> Iterator[Batch]:
        """This rank's micro-batches of one step."""
        planned = self.order.plan.at(step)
        share = planned.rows // self.world_size
        windows = self._windows(step, planned, share)
        whole = assemble(self.streams, windows, planned.phase.isolate_documents)
        kept = _kept(whole, self.streams)
        extras = {name: whole.pop(name) for name in _EXTRAS if name in whole}
        source = torch.from_numpy(windows.source)
        for low in range(0, share, self.micro):
            part = slice(low, min(low + self.micro, share))
            tensors = whole if share <= self.micro else {n: t[part] for n, t in whole.items()}
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
                extras={name: values[part] for name, values in extras.items()},
            )


def _check_alike(order: Order, streams: list[Stream]) -> None:
    pairs = [n for n, s in zip(order.names, streams, strict=True) if hasattr(s, "extras")]
    others = [name for name in order.names if name not in pairs]
    if pairs and others:
        raise ConfigError(
            f"phases: pairs ({', '.join(pairs)}) are mixed with other sources "
            f"({', '.join(others)}), and a loss is over the one or the other; leave the others out "
            "of every mixture, or train on them in a run of their own"
        )
