"""Seeking in the order of a run as long as PLM's: its cost, and whether the order keeps its word.

The order takes the sources' sizes alone, so that no data is needed.
"""

import os
import time
import tracemalloc
from collections.abc import Callable
from fractions import Fraction
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np

from plm.data.order import Order, Quotas, Windows, permute
from plm.phases import Plan, PlannedPhase
from scripts.bench_common import spread

SEQ_LEN = 4096
BATCH_TOKENS = 2**20
SIZES = {
    "web": 1_300_000_000_000,
    "dclm": 3_800_000_000_000,
    "chinese": 420_000_000_000,
    "code": 760_000_000_000,
    # Less than the phases ask of it: it is read several times over.
    "math": 55_000_000_000,
}
PHASES = {
    "stable": (1_650_000_000_000, {"web": 30, "dclm": 30, "chinese": 15, "code": 15, "math": 10}),
    "decay": (550_000_000_000, {"web": 25, "dclm": 20, "chinese": 15, "code": 20, "math": 20}),
    # Seventeenths are no whole number of millionths: what a mixture by hand may look like.
    "constant": (280_000_000_000, {"web": 4, "dclm": 2, "chinese": 3, "code": 3, "math": 5}),
}
PLACES = (0, 10**6, 10**9, 10**10, 10**11, 10**12, 2_400_000_000_000)
NEIGHBOURS = 1_000_000


def long_order(batch_tokens: int = BATCH_TOKENS) -> Order:
    """PLM's three phases over five sources; budgets in whole batches of any power of two to 2^24.

    Args:
        batch_tokens: of one global batch.
    """
    unit = 2**24
    settings = {
        name: {
            "tokens": tokens // unit * unit,
            "seq_len": SEQ_LEN,
            "global_batch_tokens": batch_tokens,
            "mixture": mixture,
            "rate": {"shape": "hold", "to": 1.0},
        }
        for name, (tokens, mixture) in PHASES.items()
    }
    return Order(Plan.read(settings), SIZES, block_tokens=SEQ_LEN, seed=0)


def _rss() -> int:
    pages = Path("/proc/self/statm").read_text(encoding="utf-8").split()[1]
    return int(pages) * os.sysconf("SC_PAGE_SIZE")


def _traced_peak(call: Callable[[], Any]) -> int:
    tracemalloc.start()
    try:
        call()
        return tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()


def _cost(order: Order, place: int, calls: int) -> dict[str, Any]:
    first = place // BATCH_TOKENS
    order.windows(first)
    before, took = _rss(), []
    for step in range(first, first + calls):
        begun = time.process_time()
        order.windows(step)
        took.append(1e6 * (time.process_time() - begun))
    return {
        "token": place,
        "step": first,
        "cpu_us_a_step": spread(took),
        "traced_peak_bytes": _traced_peak(lambda: order.windows(first)),
        "rss_growth_bytes": _rss() - before,
    }


def _quota_error(planned: PlannedPhase, rng: np.random.Generator) -> float:
    """Most windows that any source is away from its asked share, at sampled places of a phase."""
    size, near = planned.steps * planned.rows, np.arange(2_000)
    places = np.concatenate([near, rng.integers(0, size, 20_000), size - near]).tolist()
    counts = Quotas.of(planned).counts(np.array(places))
    weights = planned.phase.mixture.values()
    total = sum(map(Fraction, weights))
    worst = Fraction(0)
    for column, weight in zip(counts.T.tolist(), weights, strict=True):
        # Exact: at these places a double's error is of the order of what is looked for.
        top, bottom = (Fraction(weight) / total).as_integer_ratio()
        most = max(abs(n * bottom - i * top) for n, i in zip(column, places, strict=True))
        worst = max(worst, Fraction(most, bottom))
    return float(worst)


def _injective(rng: np.random.Generator) -> dict[str, Any]:
    """Permutations of whole small ranges, and of neighbourhoods in the largest source's."""
    small = all(
        np.array_equal(np.sort(permute(np.arange(size), size, key)), np.arange(size))
        for size in (1, 2, 3, 5, 64, 1000, 4097)
        for key in (0, 1, 2**63)
    )
    size = (max(SIZES.values()) - 1) // SEQ_LEN
    large = True
    for start in rng.integers(0, size - NEIGHBOURS, 3):
        found = permute(np.arange(start, start + NEIGHBOURS), size, int(start))
        inside = found.min() >= 0 and found.max() < size
        large &= bool(inside and len(np.unique(found)) == NEIGHBOURS)
    return {"whole_small_ranges": small, f"{NEIGHBOURS}_neighbours_of_{size}": large}


def _rows(windows: list[Windows]) -> np.ndarray:
    """[n, 3]: source, offset, epoch."""
    parts = [np.stack([w.source, w.offset, w.epoch], axis=1) for w in windows]
    return np.concatenate(parts)


def _same_in_other_pieces(order: Order, rng: np.random.Generator) -> bool:
    """Sampled steps against orders of other batch sizes, read in uneven pieces.

    The steps next to each border between phases are among them.
    """
    finer, coarser = long_order(BATCH_TOKENS // 2), long_order(BATCH_TOKENS * 4)
    borders = [planned.first_step for planned in order.plan.phases[1:]]
    steps = {0, order.plan.total_steps - 1, *borders, *(step - 1 for step in borders)}
    steps.update(map(int, rng.integers(0, order.plan.total_steps, 40)))
    for step in sorted(steps):
        whole = _rows([order.windows(step)])
        cuts = [0, *sorted(map(int, rng.integers(1, len(whole), 5))), len(whole)]
        pieces = [order.windows(step, low, high) for low, high in pairwise(cuts) if low < high]
        halves = [finer.windows(2 * step), finer.windows(2 * step + 1)]
        inside = step % 4 * len(whole)
        quarter = coarser.windows(step // 4, inside, inside + len(whole))
        others = (pieces, halves, [quarter])
        if not all(np.array_equal(whole, _rows(other)) for other in others):
            return False
    return True


def _no_window_twice(order: Order, steps: int) -> bool:
    """Among the steps around each border and at the end, no window comes twice in an epoch."""
    ends = [planned.first_step + planned.steps for planned in order.plan.phases]
    for end in ends:
        last = min(end + steps, order.plan.total_steps)
        rows = _rows([order.windows(step) for step in range(end - steps, last)])
        if len(np.unique(rows, axis=0)) != len(rows):
            return False
    return True


def bench_seek(own: dict[str, Any], folder: Path) -> dict[str, Any]:
    """Time and memory of `Order.windows` along a run of trillions of tokens, and its promises."""
    rng = np.random.default_rng(0)
    order = long_order()
    costs = [_cost(order, place, 30 * own["alternations"]) for place in PLACES]
    medians = [cost["cpu_us_a_step"]["median"] for cost in costs]
    return {
        "run_tokens": order.plan.total_tokens,
        "steps": order.plan.total_steps,
        "windows_a_step": BATCH_TOKENS // SEQ_LEN,
        "epochs_of_math": order.cursors(order.plan.total_steps)["math"] / SIZES["math"],
        "cost_at": costs,
        "slowest_over_first": max(medians) / medians[0],
        "build_cpu_us": _building(),
        "most_windows_off_the_asked_share": {
            planned.phase.name: _quota_error(planned, rng) for planned in order.plan.phases
        },
        "injective": _injective(rng),
        "same_in_other_pieces": _same_in_other_pieces(order, rng),
        "no_window_twice_near_borders": _no_window_twice(order, 400),
    }


def _building() -> float:
    begun = time.process_time()
    long_order()
    return 1e6 * (time.process_time() - begun)
