"""Rollouts in windows: nothing is lost, mixed up or seen by another, and no share-out counts."""

from collections.abc import Callable
from functools import partial
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn

from plm.aggregation.constant import constant
from plm.aggregation.sequence import sequence
from plm.aggregation.sequence_sum import sequence_sum
from plm.aggregation.token import token
from plm.batch import IGNORE_INDEX
from plm.divergence.k3 import k3
from plm.model.context import Context
from plm.policy.clip import clip
from plm.rlvr.objective import Objective, Scorer
from plm.rlvr.packing import bins, dealt, packed
from plm.rlvr.rollouts import Rollout
from tests.model.common import tiny
from tests.rlvr.made import alone, empty_batch, own, rollout, rollouts

SIZE = 40
LENGTHS = st.lists(st.integers(1, SIZE), max_size=40)


@settings(max_examples=80, deadline=None)
@given(LENGTHS)
def test_bins_hold_everything_once_and_nothing_too_much(lengths: list[int]) -> None:
    found = bins(lengths, SIZE)
    assert sorted(index for row in found for index in row) == list(range(len(lengths)))
    sums = [sum(lengths[index] for index in row) for row in found]
    assert all(0 < total <= SIZE for total in sums)
    # First fit: no window fits whole into the room of one before it.
    for later in range(len(found)):
        assert all(sums[before] + lengths[found[later][0]] > SIZE for before in range(later))


@settings(max_examples=80, deadline=None)
@given(st.integers(1, 4), st.integers(1, 5), st.integers(1, 6), st.data())
def test_dealt_shares_out_everything_once_and_evenly(
    world: int, parts: int, each: int, data: st.DataObject
) -> None:
    number = world * parts * each
    lengths = data.draw(st.lists(st.integers(1, 99), min_size=number, max_size=number))
    hands = dealt(lengths, world, parts)
    flat = [[index for part in hand for index in part] for hand in hands]
    assert sorted(index for hand in flat for index in hand) == list(range(number))
    assert all([len(part) for part in hand] == [each] * parts for hand in hands)
    work = [sum(lengths[index] for index in hand) for hand in flat]
    assert max(work) - min(work) <= max(lengths)


@settings(max_examples=80, deadline=None)
@given(st.integers(1, 3), st.integers(1, 4), st.integers(1, 4), st.data())
def test_what_has_no_gradient_only_fills_up(
    world: int, parts: int, each: int, data: st.DataObject
) -> None:
    number = world * parts * each
    useful = data.draw(st.lists(st.booleans(), min_size=number, max_size=number))
    hands = dealt([1] * number, world, parts, useful)
    dealt_out = [index for hand in hands for part in hand for index in part]
    # As many micro-batches on each process, none of them empty: ranks must step together.
    assert all(len(hand) == parts and all(hand) for hand in hands)
    assert {i for i in range(number) if useful[i]} <= set(dealt_out)
    assert len(dealt_out) == len(set(dealt_out)) == max(sum(useful), world * parts)


def test_the_longest_are_dealt_first() -> None:
    assert dealt([1, 5, 3, 7], 2, 1) == [[[3, 0]], [[1, 2]]]
    assert dealt([4, 4, 4, 4], 2, 2) == [[[0], [3]], [[1], [2]]]
    assert dealt([1, 5, 3, 7], 1, 2, [True, False, True, False]) == [[[2], [0]]]


@pytest.fixture(scope="module")
def model() -> nn.Module:
    return tiny()


def _packed_logps(
    model: nn.Module, some: list[Rollout], size: int = SIZE
) -> tuple[Tensor, Tensor, dict[str, Tensor]]:
    windows, known, owner = packed(some, size, empty_batch())
    logps = model(
        windows.tokens,
        context=Context.of(windows),
        labels=windows.labels,
        losses={"logps": Scorer(1.0)},
    ).losses["logps"]
    return logps, owner, known


@pytest.mark.parametrize("size", [19, 40, 200])
def test_a_window_gives_what_each_rollout_gives_alone(model: nn.Module, size: int) -> None:
    some = rollouts(9)
    logps, owner, known = _packed_logps(model, some, size)
    assert len(logps) == len(owner) == sum(one.chosen for one in some)
    for index, one in enumerate(some):
        torch.testing.assert_close(logps[owner == index], alone(model, one)[0])
        for name in ("sampled", "old", "reference"):
            found = known[name][owner == index].double()
            torch.testing.assert_close(found, own(one, getattr(one, name)), rtol=1e-6, atol=0)


def test_other_rollouts_and_padding_are_not_seen(model: nn.Module) -> None:
    some = rollouts(5)
    before, owner, _ = _packed_logps(model, some)
    some[1].tokens = [(t + 1) % 37 for t in some[1].tokens]
    after, _, _ = _packed_logps(model, some)
    assert torch.equal(before[owner != 1], after[owner != 1])
    assert not torch.equal(before[owner == 1], after[owner == 1])


def test_a_rollouts_tokens_lie_together_in_their_order() -> None:
    _, known, owner = packed(rollouts(9), SIZE, empty_batch())
    changes = int((owner[1:] != owner[:-1]).sum())
    assert changes == 8 and len(known["old"]) == len(owner)


def test_what_a_tool_said_has_no_label_and_is_still_there() -> None:
    one = rollout([1, 2], [3, 4, 5, 6], learn=[1, 0, 0, 1], sampled=[-1.0, 0.0, 0.0, -2.0])
    windows, known, owner = packed([one], SIZE, empty_batch())
    assert windows.tokens.tolist() == [[1, 2, 3, 4, 5, 6]]
    ignored = IGNORE_INDEX
    assert windows.labels.tolist() == [[ignored, 3, ignored, ignored, 6, ignored]]
    assert owner.tolist() == [0, 0] and known["sampled"].tolist() == [-1.0, -2.0]
    assert set(known) == {"sampled"}


def test_windows_are_as_long_as_the_fullest() -> None:
    some = [rollout([1] * n, [2] * n) for n in (5, 3, 2)]
    windows, _, owner = packed(some, 12, empty_batch())
    assert windows.tokens.shape == (2, 10)
    assert windows.doc_ids.tolist() == [[0] * 10, [0] * 6 + [1] * 4]
    assert windows.positions.tolist() == [list(range(10)), [*range(6), *range(4)]]
    padded, _, _ = packed(some[:2], 12, empty_batch())
    # What is left of a row is a document of its own, without labels.
    assert padded.doc_ids.tolist() == [[0] * 10, [0] * 6 + [1] * 4]
    assert (padded.labels[1, 6:] == IGNORE_INDEX).all()
    assert owner.tolist() == [0] * 5 + [1] * 3 + [2] * 2


def test_the_steps_numbers_are_taken_over() -> None:
    windows, _, _ = packed(rollouts(2), SIZE, empty_batch())
    assert (windows.step, windows.tokens_seen, windows.phase) == (3, 96, "one")
    assert windows.rows_in_step == 8


def test_an_answer_without_tokens_hides_nothing_of_the_others() -> None:
    some = [rollout([1, 2], []), rollout([1], [2, 3])]
    _, known, owner = packed(some, SIZE, empty_batch())
    assert owner.tolist() == [1, 1] and known["sampled"].tolist() == [-1.0, -1.0]


def _step(
    model: nn.Module, some: list[Rollout], world: int, micro: int, weigh: Callable[..., Tensor]
) -> tuple[float, dict[str, Tensor]]:
    """Loss and gradients of an optimizer step, shared out as the stage does it."""
    objective = Objective(
        partial(clip), weigh, divergence=k3, divergence_weight=0.1, entropy_weight=0.01
    )
    shares = weigh(torch.tensor([one.chosen for one in some]), longest=20)
    values = torch.tensor([one.advantage for one in some], dtype=torch.float64)
    model.zero_grad()
    loss = 0.0
    parts = -(-len(some) // (world * micro))
    for hand in dealt([one.length for one in some], world, parts):
        for mine in hand:
            windows, known, owner = packed([some[i] for i in mine], SIZE, empty_batch())
            given: dict[str, Any] = {"known": known, "owner": owner}
            given |= {"advantages": values[mine], "weights": shares[mine]}
            losses = {"policy": lambda *a, given=given, **k: objective.loss(*a, **k, **given)[0]}
            found = model(
                windows.tokens, context=Context.of(windows), labels=windows.labels, losses=losses
            ).losses["policy"]
            assert found.count == 1
            found.total.backward()
            loss += float(found.total.detach())
    return loss, {name: p.grad.clone() for name, p in model.named_parameters()}


@pytest.mark.parametrize("weigh", [constant, sequence, sequence_sum, token])
def test_neither_micro_batches_nor_processes_change_the_step(
    model: nn.Module, weigh: Callable[..., Tensor]
) -> None:
    some = rollouts(8)
    loss, gradients = _step(model, some, 1, 8, weigh)
    assert any(gradient.abs().max() > 1e-3 for gradient in gradients.values())
    for world, micro in ((1, 1), (1, 3), (2, 2), (4, 1), (8, 8)):
        other, found = _step(model, some, world, micro, weigh)
        assert other == pytest.approx(loss, rel=1e-12)
        for name, gradient in gradients.items():
            torch.testing.assert_close(found[name], gradient, rtol=1e-9, atol=1e-13)
