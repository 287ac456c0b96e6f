"""What every choice of configs/preference must hold."""

import inspect
from pathlib import Path

import pytest
import torch
from omegaconf import OmegaConf

from plm.batch import LossSum
from plm.config import build
from plm.errors import ConfigError
from plm.preference.common import SHOWN, check, needs_reference, shown_by
from tests.preference.common import drawn, gradients, part, with_gradients

CHOICES = sorted((Path(__file__).parents[2] / "configs/preference").glob("*.yaml"))
CASES = pytest.mark.parametrize("dtype", [torch.float32, torch.float64])


@pytest.fixture(params=CHOICES, ids=lambda path: path.stem)
def loss(request):
    return build(OmegaConf.load(request.param))


def test_there_are_choices():
    assert CHOICES


def test_the_file_holds_every_setting_with_its_default(loss):
    parameters = list(inspect.signature(loss.func).parameters.values())
    assert [p.name for p in parameters[:2]] == ["policy", "reference"]
    assert loss.keywords == {p.name: p.default for p in parameters[2:]}


def test_passes_its_own_check(loss):
    check(loss)
    with pytest.raises(ConfigError, match=r"unexpected keyword argument 'nonsense'"):
        loss.keywords["nonsense"] = 1
        check(loss)


def test_wants_kinds_that_there_are(loss):
    kinds = shown_by(loss)
    assert kinds and list(kinds) == [kind for kind in SHOWN if kind in kinds]


@CASES
def test_sum_and_count(loss, dtype):
    policy, reference = drawn(shown_by(loss) * 6, dtype)
    found = loss(policy, reference)
    assert isinstance(found, LossSum)
    assert found.total.shape == () and found.total.dtype == dtype
    assert found.count == len(policy.chosen) and found.count.dtype == torch.int64


@CASES
def test_no_part_gives_0_and_no_gradient(loss, dtype):
    policy, reference = drawn([], dtype)
    total, count = loss(policy, reference)
    total.backward()
    assert total == 0 and count == 0 and count.dtype == torch.int64


def test_split_parts_add_up_to_the_whole(loss):
    if getattr(loss.func, "of_micro_batch", False):
        pytest.skip("says that it depends on the micro-batch")
    policy, reference = drawn(shown_by(loss) * 6)
    whole = loss(policy, reference)
    rows = [slice(0, 2), slice(2, None)]
    parts = [loss(part(policy, kept), part(reference, kept)) for kept in rows]
    total = parts[0].total + parts[1].total
    torch.testing.assert_close(total, whole.total, rtol=1e-14, atol=0)
    assert parts[0].count + parts[1].count == whole.count
    for mine, its in zip(gradients(total, policy), gradients(whole.total, policy), strict=True):
        torch.testing.assert_close(mine, its, rtol=1e-14, atol=0)


def test_parts_may_come_in_any_order(loss):
    policy, reference = drawn(shown_by(loss) * 6)
    order = torch.randperm(len(policy.chosen))
    mixed = loss(part(policy, order), part(reference, order)).total
    torch.testing.assert_close(mixed, loss(policy, reference).total, rtol=1e-14, atol=0)


def test_the_first_step_parts_the_answers(loss):
    policy, reference = drawn(shown_by(loss) * 6)
    # As at the start of a training: the policy is the reference.
    policy = with_gradients(reference)
    chosen, rejected = gradients(loss(policy, reference).total, policy)
    assert (chosen < 0).all() and (rejected > 0).all()


def test_a_reference_is_read_by_those_that_need_one(loss):
    policy, reference = drawn(shown_by(loss) * 6)
    other = reference._replace(chosen=reference.chosen - 1)
    found, moved = loss(policy, reference).total, loss(policy, other).total
    assert needs_reference(loss) == (not torch.equal(found, moved))
    if not needs_reference(loss):
        assert torch.equal(loss(policy, None).total, found)


@CASES
@pytest.mark.parametrize("fallen", ["chosen", "rejected"])
def test_far_from_the_reference_all_is_finite(loss, dtype, fallen: str):
    policy, reference = drawn(shown_by(loss) * 6, dtype)
    policy = with_gradients(policy._replace(**{fallen: getattr(policy, fallen) - 1e4}))
    total = loss(policy, reference).total
    assert all(value.isfinite().all() for value in (total, *gradients(total, policy)))
