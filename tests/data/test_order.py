"""The order of data is a pure function of (phases, sources, seed, step)."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from plm.data.order import MIXTURE_PIECES, Order, Quotas, permute
from plm.errors import ConfigError, DataError
from plm.phases import Plan


def phase(tokens: int, seq_len: int, mixture: dict[str, float], batch: int = 64) -> dict:
    return {
        "tokens": tokens,
        "seq_len": seq_len,
        "global_batch_tokens": batch,
        "mixture": mixture,
        "rate": {"shape": "hold", "to": 1.0},
    }


TOKENS = {"a": 3000, "b": 5000, "c": 100_000}


@given(st.integers(1, 3000), st.integers(0, 2**40))
@settings(max_examples=30, deadline=None)
def test_permutation_holds_each_place_once(size: int, key: int) -> None:
    assert sorted(permute(np.arange(size), size, key)) == list(range(size))


def test_permutation_at_a_huge_place() -> None:
    place = permute(np.array([10**12]), 10**12 + 7, 3)
    assert 0 <= int(place[0]) < 10**12 + 7


@given(st.lists(st.floats(0.01, 1.0), min_size=1, max_size=20))
@settings(max_examples=40, deadline=None)
def test_quotas_stay_near_the_asked_share(weights: list[float]) -> None:
    quotas = Quotas([{str(i): w for i, w in enumerate(weights)}])
    counts = quotas.counts(np.arange(500))
    asked = np.arange(500)[:, None] * np.array(weights) / sum(weights)
    assert (counts.sum(axis=1) == np.arange(500)).all()
    steps = np.diff(counts, axis=0)
    assert ((steps == 0) | (steps == 1)).all()
    assert np.abs(counts - asked).max() <= 2


@given(
    st.lists(st.tuples(st.floats(0, 1), st.floats(0, 1)), min_size=2, max_size=20),
    st.integers(1, 3000),
)
@settings(max_examples=40, deadline=None)
def test_quotas_follow_weights_that_change(weights: list[tuple[float, float]], rows: int) -> None:
    ends = [{str(i): pair[end] + 0.01 for i, pair in enumerate(weights)} for end in (0, 1)]
    plan = Plan.read({"x": {**phase(rows * 64, 64, ends[0]), "mixture_to": ends[1]}})
    counts = Quotas.of(plan.phases[0]).counts(np.arange(rows + 1))
    steps = np.diff(counts, axis=0)
    assert ((steps == 0) | (steps == 1)).all()
    assert (steps.sum(axis=1) == 1).all()
    pieces = min(MIXTURE_PIECES, rows)
    share = np.array([list(plan.phases[0].shares(p, pieces).values()) for p in range(pieces)])
    piece = np.searchsorted([rows * p // pieces for p in range(pieces)], np.arange(rows), "right")
    asked = np.vstack([np.zeros(len(weights)), share[piece - 1].cumsum(axis=0)])
    assert np.abs(counts - asked).max() <= 2


def test_a_mixture_that_changes_by_hand() -> None:
    settings = phase(64 * 64, 64, {"a": 1, "b": 0})
    plan = Plan.read({"x": {**settings, "mixture_to": {"a": 0, "b": 3}}})
    counts = Quotas.of(plan.phases[0]).counts(np.arange(65))[:, 0]
    # 64 windows in 64 pieces: the share of a falls from 127/128 to 1/128.
    assert counts[[0, 1, 16, 32, 64]].tolist() == [0, 1, 14, 24, 32]
    order = Order(plan, TOKENS, 64, seed=0)
    assert order.read(0, 64) == {"a": 32 * 64, "b": 32 * 64}
    assert plan.phases[0].shares() == {"a": 0.5, "b": 0.5}


@pytest.mark.parametrize(
    "weights",
    [[0.02] * 20 + [0.6], [0.05] * 20, [1, 2, 3, 4, 5, 6, 7], [0.3, 0.3, 0.15, 0.15, 0.1]],
)
def test_many_sources_stay_within_two_windows(weights: list[float]) -> None:
    quotas = Quotas([{str(i): w for i, w in enumerate(weights)}])
    places = np.arange(200_000)
    asked = places[:, None] * np.array(weights) / sum(weights)
    assert np.abs(quotas.counts(places) - asked).max() <= 1.5


def test_shares_that_are_fractions_are_exact() -> None:
    """Seventeenths at 10^9 windows; in millionths they were off by dozens."""
    quotas = Quotas([{"a": 3 / 17, "b": 5 / 17, "c": 9 / 17}])
    counts = quotas.counts(np.array([10**9]))[0]
    assert np.abs(counts - np.array([3, 5, 9]) * 10**9 / 17).max() <= 1


def test_many_steps_at_once_are_the_single_ones() -> None:
    plan = Plan.read({"x": phase(6400, 8, {"a": 1, "c": 2}), "y": phase(640, 8, {"c": 1})})
    order = Order(plan, TOKENS, 32, seed=5)
    many = order.windows_of(3, 7, 2, 5)
    single = [order.windows(step, 2, 5) for step in range(3, 10)]
    for name in ("source", "offset", "epoch"):
        assert (getattr(many, name) == np.concatenate([getattr(s, name) for s in single])).all()


def test_quotas_at_a_trillion_windows() -> None:
    quotas = Quotas([{"a": 0.3, "b": 0.25, "c": 0.45}])
    counts = quotas.counts(np.array([10**12, 10**12 + 1]))
    assert np.abs(counts[0] - np.array([3, 2.5, 4.5]) * 10**11).max() <= 1
    assert (counts[1] - counts[0]).sum() == 1


def test_weights_by_tokens() -> None:
    settings = phase(64, 8, {"a": "tokens", "b": "tokens"})
    plan = Plan.read({"x": settings})
    assert plan.resolved({"a": 100, "b": 300}).phases[0].shares() == {"a": 0.25, "b": 0.75}
    warm = Plan.read({"x": {**settings, "temperature": 2.0}}).resolved({"a": 100, "b": 900})
    assert warm.phases[0].shares() == pytest.approx({"a": 0.25, "b": 0.75})
    with pytest.raises(ConfigError, match=r"mixture\.b=tokens: the size of b is not known; known:"):
        plan.resolved({"a": 100})


mixtures = st.fixed_dictionaries({"a": st.floats(0.1, 1), "b": st.floats(0.1, 1)})


@given(mixtures, mixtures, st.sampled_from([8, 16, 32]), st.sampled_from([8, 16, 32]))
@settings(max_examples=20, deadline=None)
def test_no_token_twice_before_its_source_is_exhausted(
    first: dict, second: dict, left: int, right: int
) -> None:
    plan = Plan.read({"x": phase(4000, left, first), "y": phase(4000, right, second)})
    order = Order(plan, TOKENS, 32, seed=1)
    seen: set[tuple[int, int, int]] = set()
    for step in range(plan.total_steps):
        windows = order.windows(step)
        for source, offset, epoch in zip(
            windows.source, windows.offset, windows.epoch, strict=True
        ):
            for token in range(offset, offset + windows.seq_len):
                assert (source, token, epoch) not in seen
                seen.add((source, token, epoch))


@given(st.integers(1, 7), st.integers(0, 60))
@settings(max_examples=30, deadline=None)
def test_ranks_together_read_the_global_batch(world: int, step: int) -> None:
    rows = 8 * world
    plan = Plan.read({"x": phase(10**6, 8, {"a": 2, "c": 1}, batch=8 * rows)})
    order = Order(plan, TOKENS, 32, seed=0)
    whole = order.windows(step)
    share = rows // world
    parts = [order.windows(step, r * share, (r + 1) * share) for r in range(world)]
    for name in ("source", "offset", "epoch"):
        joined = np.concatenate([getattr(part, name) for part in parts])
        assert (joined == getattr(whole, name)).all()


def test_fork_goes_on_where_the_origin_stood() -> None:
    both = Plan.read({"x": phase(6400, 8, {"a": 1, "c": 2}), "y": phase(640, 8, {"c": 1})})
    whole = Order(both, TOKENS, 32, seed=5)
    at = both.phases[0].steps
    fork = Plan.read({"y": phase(640, 8, {"c": 1})}, origin_tokens=6400)
    order = Order(fork, TOKENS, 32, seed=5, cursors=whole.cursors(at))
    for step in range(fork.total_steps):
        assert (order.windows(step).offset == whole.windows(at + step).offset).all()


def test_tokens_read_are_the_quotas() -> None:
    plan = Plan.read({"x": phase(64_000, 8, {"a": 3, "c": 1})})
    order = Order(plan, TOKENS, 32, seed=0)
    read = order.read(0, plan.total_steps)
    assert sum(read.values()) == plan.total_tokens
    assert abs(read["a"] - 48_000) <= 2 * 8


def test_errors_name_key_and_rule() -> None:
    plan = Plan.read({"x": phase(640, 8, {"nope": 1.0})})
    with pytest.raises(ConfigError, match=r"phases\.x\.mixture\.nope is not a source"):
        Order(plan, TOKENS, 32, seed=0)
    with pytest.raises(ConfigError, match=r"seq_len=8 does not divide data\.block_tokens=20"):
        Order(Plan.read({"x": phase(640, 8, {"a": 1.0})}), TOKENS, 20, seed=0)
    with pytest.raises(DataError, match="source a has 30 tokens, less than one block of 32"):
        Order(Plan.read({"x": phase(640, 8, {"a": 1.0})}), {"a": 30}, 32, seed=0)
