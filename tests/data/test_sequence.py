"""What a run reads does not depend on ranks, micro-batches, loader workers or where it went on."""

from collections import Counter

import numpy as np
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch.utils.data import DataLoader

from plm.data.loader import Batches
from plm.data.order import Order
from plm.phases import Plan

BLOCK = 32


class Counting:
    """A source whose tokens say where they are: 1,000,000 times its number, and the place."""

    def __init__(self, number: int, size: int) -> None:
        self.number, self.n_tokens = number, size
        self.doc_starts = np.append(np.arange(0, size, 13), size)

    def windows(self, offsets: np.ndarray, size: int) -> np.ndarray:
        return 1_000_000 * self.number + offsets[:, None] + np.arange(size)


@st.composite
def runs(draw: st.DrawFn) -> tuple[Plan, dict[str, int], int]:
    """Phases, sizes of the sources, and a number of ranks that can share their batches."""
    world = draw(st.integers(1, 7))
    names = "abcd"[: draw(st.integers(1, 4))]
    weight = st.floats(0.05, 1.0)
    phases = {}
    for name in ("one", "two", "three")[: draw(st.integers(1, 3))]:
        seq_len = draw(st.sampled_from([8, 16, 32]))
        batch = seq_len * world * draw(st.integers(1, 3))
        phases[name] = {
            "tokens": batch * draw(st.integers(1, 12)),
            "seq_len": seq_len,
            "global_batch_tokens": batch,
            "mixture": {n: draw(weight) for n in names},
            "mixture_to": {n: draw(weight) for n in names} if draw(st.booleans()) else {},
            "isolate_documents": draw(st.booleans()),
            "rate": {"shape": "hold", "to": 1.0},
        }
    sizes = {n: draw(st.integers(2 * BLOCK, 900)) for n in names}
    return Plan.read(phases), sizes, world


def rows(plan, sizes, *, world=1, micro=4, start=0, workers=0, seed=3):
    """(step, position in the step, tokens) of every row, in the order that ranks get them."""
    order = Order(plan, sizes, BLOCK, seed)
    streams = [Counting(i, sizes[name]) for i, name in enumerate(order.names)]
    found = []
    for rank in range(world):
        batches = Batches(
            order, streams, micro_batch_size=micro, rank=rank, world_size=world, start_step=start
        )
        loader = DataLoader(batches, batch_size=None, num_workers=workers) if workers else batches
        for batch in loader:
            for row, tokens in enumerate(batch.tokens):
                found.append((batch.step, batch.first_row + row, tuple(tokens.tolist())))
    return found


@given(runs(), st.integers(1, 5), st.data())
@settings(max_examples=40, deadline=None)
def test_the_same_windows_in_the_same_order(run, micro, data):
    plan, sizes, world = run
    whole = rows(plan, sizes, micro=1)
    assert [row[:2] for row in whole] == sorted(row[:2] for row in whole)
    # Ranks and micro-batches: the same rows at the same places.
    assert sorted(rows(plan, sizes, world=world, micro=micro)) == whole
    # Going on at any step, on another number of ranks.
    split = data.draw(st.integers(0, plan.total_steps))
    later = [row for row in whole if row[0] >= split]
    assert sorted(rows(plan, sizes, world=world, micro=micro, start=split)) == later


@given(runs())
@settings(max_examples=40, deadline=None)
def test_no_token_twice_within_an_epoch_and_none_left_out(run):
    plan, sizes, _ = run
    order = Order(plan, sizes, BLOCK, seed=3)
    seen: Counter = Counter()
    blocks: dict[tuple[int, int], set[int]] = {}
    for step in range(plan.total_steps):
        found = order.windows(step)
        for source, offset, epoch in zip(found.source, found.offset, found.epoch, strict=True):
            seen.update((source, epoch, t) for t in range(offset, offset + found.seq_len))
            blocks.setdefault((source, epoch), set()).add(offset // BLOCK)
    assert not seen or max(seen.values()) == 1
    # An epoch that another one follows was read whole, but for what a change of length skips.
    for (source, epoch), places in blocks.items():
        if (source, epoch + 1) in blocks:
            assert places == set(range(order.blocks[order.names[source]]))


@given(runs())
@settings(max_examples=40, deadline=None)
def test_quotas_hold_at_every_step(run):
    plan, sizes, _ = run
    order = Order(plan, sizes, BLOCK, seed=3)
    for planned in plan.phases:
        read = dict.fromkeys(order.names, 0)
        for step in range(planned.first_step, planned.first_step + planned.steps):
            for source in order.windows(step).source:
                read[order.names[source]] += 1
        # Each phase by itself ends within two windows of what was asked.
        pieces = min(64, planned.windows) if planned.phase.mixture_to else 1
        sizes_of = np.diff([planned.windows * p // pieces for p in range(pieces + 1)])
        asked = dict.fromkeys(order.names, 0.0)
        for piece, size in enumerate(sizes_of):
            for name, share in planned.shares(piece, pieces).items():
                asked[name] += share * size
        assert all(abs(read[name] - asked[name]) <= 2 for name in order.names)


def test_workers_of_a_loader_keep_the_order():
    rate = {"shape": "hold", "to": 1.0}
    phase = {"tokens": 8 * 15 * 7, "seq_len": 8, "global_batch_tokens": 8 * 15, "rate": rate}
    plan = Plan.read({"x": {**phase, "mixture": {"a": 2, "b": 1}}})
    sizes = {"a": 500, "b": 300}
    for micro in (2, 15):
        one = rows(plan, sizes, micro=micro)
        assert rows(plan, sizes, micro=micro, workers=2) == one
        assert torch.tensor([row[0] for row in one]).diff().min() >= 0
