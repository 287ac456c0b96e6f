"""Figures of a run: sums that stay on the device, rows in metrics.csv, throughput and MFU."""

import csv
import io
import math
from collections.abc import Mapping
from functools import partial
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from plm.batch import LossSum
from plm.checkpoint import write_atomic

MOST = -1.0
"""In the place of a count: what stands beside it is the largest value, and no sum."""


class Sums:
    """Named sums and counts, kept on the device until they are read."""

    def __init__(self) -> None:
        self._total: dict[str, Tensor] = {}
        self._count: dict[str, Tensor] = {}
        self._most: dict[str, Tensor] = {}

    def add(self, name: str, loss: LossSum) -> None:
        """Add one micro-batch's sum and count; nothing is read back."""
        total, count = loss.total.detach().double(), loss.count.detach().double()
        if name in self._total:
            self._total[name] += total
            self._count[name] += count
        else:
            self._total[name], self._count[name] = total.clone(), count.clone()

    def most(self, name: str, value: Tensor) -> None:
        """Keep the largest of the values that are given under a name; nothing is read back."""
        value = value.detach().double()
        known = self._most.get(name)
        self._most[name] = value.clone() if known is None else torch.maximum(known, value)

    def means(self) -> dict[str, float]:
        """Mean, or the largest, of each name over all ranks, and start anew.

        NaN where nothing was counted.
        """
        found = self.state()
        for part in (self._total, self._count, self._most):
            part.clear()
        return {
            name: total if count == MOST else total / count if count else math.nan
            for name, (total, count) in found.items()
        }

    def state(self) -> dict[str, tuple[float, float]]:
        """Total and count of each name over all ranks; every rank must call it."""
        found = self._largest()
        names = sorted(self._total)
        if not names:
            return found
        both = torch.stack(
            [torch.stack([self._total[n], self._count[n].to(self._total[n])]) for n in names]
        )
        if torch.distributed.is_available() and torch.distributed.is_initialized():
            torch.distributed.all_reduce(both)
        sums = zip(names, both.tolist(), strict=True)
        return {name: (pair[0], pair[1]) for name, pair in sums} | found

    def _largest(self) -> dict[str, tuple[float, float]]:
        """Of each name the largest over all ranks, marked by a count of MOST."""
        names = sorted(self._most)
        if not names:
            return {}
        values = torch.stack([self._most[name] for name in names])
        if torch.distributed.is_available() and torch.distributed.is_initialized():
            torch.distributed.all_reduce(values, torch.distributed.ReduceOp.MAX)
        return {name: (value, MOST) for name, value in zip(names, values.tolist(), strict=True)}

    def load(
        self,
        state: Mapping[str, tuple[float, float]],
        device: torch.device,
        *,
        first: bool = True,
    ) -> None:
        """Go on from a state.

        Args:
            state: as `state` gave it, over all ranks.
            device: of the sums.
            first: this is the rank that goes on with the figures. The others begin with nothing,
                under the same names: ranks add up name by name.
        """
        new = partial(torch.tensor, dtype=torch.float64, device=device)
        for name, (total, count) in state.items():
            if count == MOST:
                self._most[name] = new(total if first else -math.inf)
                continue
            self._total[name], self._count[name] = new(total * first), new(count * first)


class MetricsTable:
    """metrics.csv: one row a logged step, columns added as they come.

    Args:
        path: the file; what stands there is read back.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self.columns: list[str] = []
        self.rows: list[dict[str, Any]] = []
        if path.exists():
            self.load(path.read_text(encoding="utf-8"))

    def load(self, text: str) -> None:
        """Take the rows of a stored table in the place of the present ones."""
        reader = csv.DictReader(io.StringIO(text))
        self.columns = list(reader.fieldnames or [])
        self.rows = [dict(row) for row in reader]

    def text(self) -> str:
        """The table as CSV."""
        out = io.StringIO()
        writer = csv.DictWriter(out, self.columns, restval="", lineterminator="\n")
        writer.writeheader()
        writer.writerows(self.rows)
        return out.getvalue()

    def rewrite(self) -> None:
        """Write the whole table, atomically."""
        write_atomic(self.path, self.text())

    def add(self, row: dict[str, Any]) -> None:
        """Append a row; only a new column makes the file be written again."""
        text = {name: _plain(value) for name, value in row.items() if value is not None}
        new = [name for name in text if name not in self.columns]
        self.rows.append(text)
        if new or not self.path.exists():
            self.columns += new
            self.rewrite()
            return
        with self.path.open("a", encoding="utf-8") as file:
            csv.DictWriter(file, self.columns, restval="", lineterminator="\n").writerow(text)


def _plain(value: Any) -> str:
    return f"{value:.9g}" if isinstance(value, float) else str(value)


PEAK_FLOPS = {
    "H200": 989e12,
    "H100": 989e12,
    "B200": 2250e12,
    "A100": 312e12,
    "RTX 4090": 165e12,
    "MI300X": 1307e12,
}
"""Dense bf16 matmul peak a second by the makers' data sheets, by part of the device's name."""


def measure_matmul_flops(
    seconds: float = 0.15, size: int = 1024, dtype: torch.dtype = torch.float32
) -> float:
    """FLOP/s of this CPU's matmul with the threads in use: best of what fits the time."""
    import time

    left, right = (torch.ones(size, size, dtype=dtype) for _ in range(2))
    best, end = float("inf"), time.perf_counter() + seconds
    left @ right
    while time.perf_counter() < end:
        begin = time.perf_counter()
        left @ right
        best = min(best, time.perf_counter() - begin)
    return 2 * size**3 / best


def peak_flops(device: torch.device, precision: str = "32-true") -> float:
    """FLOP/s that MFU is a share of: the data sheet's on a known GPU, measured on a CPU, else 0.

    Args:
        device: that trains.
        precision: Lightning's name of it; on a CPU the rate of its products is measured.
    """
    if device.type == "cpu":
        low = precision.startswith("bf16")
        return measure_matmul_flops(dtype=torch.bfloat16 if low else torch.float32)
    name = torch.cuda.get_device_name(device)
    return next((flops for part, flops in PEAK_FLOPS.items() if part in name), 0.0)


def peak_gib(device: torch.device) -> float:
    """Most memory held so far: of the allocator on a GPU, of the process on a CPU."""
    if device.type == "cuda":
        return torch.cuda.max_memory_allocated(device) / 2**30
    import resource
    import sys

    unit = 1 if sys.platform == "darwin" else 1024
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit / 2**30
