"""The numbers of the micro-batches of a stage that makes its data itself."""

import pytest

from plm.errors import ConfigError
from plm.phases import Plan
from plm.rlvr.ticks import Ticks
from tests.rlvr.made import SEQ_LEN, phase

PLAN = Plan.read(
    {"one": phase({"sums": 1}, steps=2, rows=8), "two": phase({"sums": 1}, steps=1, rows=12)}
)


@pytest.mark.parametrize(("micro", "world"), [(1, 1), (3, 1), (8, 1), (100, 1), (3, 2), (2, 4)])
def test_each_rollout_of_each_step_stands_in_one_micro_batch(micro: int, world: int) -> None:
    seen: dict[int, list[int]] = {}
    for rank in range(world):
        ticks = list(Ticks(PLAN, micro_batch_size=micro, rank=rank, world_size=world))
        for tick in ticks:
            assert 0 < len(tick.tokens) <= micro and tick.tokens.shape[1] == 0
            rows = range(tick.first_row, tick.first_row + len(tick.tokens))
            seen.setdefault(tick.step, []).extend(rows)
        for step in range(3):
            mine = [tick for tick in ticks if tick.step == step]
            assert [t.first for t in mine] == [i == 0 for i in range(len(mine))]
            assert [t.last for t in mine] == [i + 1 == len(mine) for i in range(len(mine))]
    assert {step: sorted(rows) for step, rows in seen.items()} == {
        0: list(range(8)), 1: list(range(8)), 2: list(range(12))
    }  # fmt: skip


def test_a_micro_batch_knows_its_step() -> None:
    found = [
        (tick.step, tick.tokens_seen, tick.phase, tick.rows_in_step)
        for tick in Ticks(PLAN, micro_batch_size=100)
    ]
    step = 8 * SEQ_LEN
    assert found == [(0, 0, "one", 8), (1, step, "one", 8), (2, 2 * step, "two", 12)]


def test_goes_on_from_a_step() -> None:
    whole = [(t.step, t.first_row) for t in Ticks(PLAN, micro_batch_size=3)]
    later = [(t.step, t.first_row) for t in Ticks(PLAN, micro_batch_size=3, start_step=1)]
    assert later == [place for place in whole if place[0] >= 1]


def test_rollouts_that_processes_cannot_share() -> None:
    line = (
        r"phases\.one\.global_batch_tokens gives 8 rollouts a step, which 3 processes cannot share "
        rf"evenly; use a multiple of {3 * SEQ_LEN}$"
    )
    with pytest.raises(ConfigError, match=line):
        Ticks(PLAN, micro_batch_size=2, world_size=3)


def test_a_micro_batch_of_nothing() -> None:
    with pytest.raises(ConfigError, match=r"micro_batch_size=0 must be at least 1"):
        Ticks(PLAN, micro_batch_size=0)
