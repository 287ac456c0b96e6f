"""Sums that a checkpoint takes along."""

import math

import pytest
import torch

from plm import metrics
from plm.batch import LossSum
from plm.metrics import Sums


def loss(total: float, count: int) -> LossSum:
    return LossSum(torch.tensor(total), torch.tensor(count))


def test_ranks_that_go_on_have_the_same_names() -> None:
    """Rank 0 has the figures; what each rank adds up is the same list."""
    before = Sums()
    before.add("loss", loss(3.0, 2))
    before.most("ratio", torch.tensor(1.5))
    ranks = Sums(), Sums()
    for rank, sums in enumerate(ranks):
        sums.load(before.state(), torch.device("cpu"), first=rank == 0)
    zero, one = (sums.state() for sums in ranks)
    assert zero == before.state() and zero.keys() == one.keys()
    assert one["loss"] == (0.0, 0.0) and one["ratio"] == (-math.inf, zero["ratio"][1])
    # The other rank's own figures count.
    ranks[1].most("ratio", torch.tensor(0.5))
    ranks[1].add("loss", loss(4.0, 1))
    assert ranks[1].state() == {"loss": (4.0, 1.0), "ratio": (0.5, zero["ratio"][1])}


def test_sums_go_on_from_their_state() -> None:
    whole, first, second = Sums(), Sums(), Sums()
    for sums in (whole, first):
        sums.add("loss", loss(3.0, 2))
    second.load(first.state(), torch.device("cpu"))
    for sums in (whole, second):
        sums.add("loss", loss(4.5, 1))
    assert whole.state() == second.state() == {"loss": (7.5, 3.0)}
    assert second.means() == {"loss": 2.5}
    assert second.means() == {}


def test_nothing_counted_is_not_a_number() -> None:
    sums = Sums()
    sums.add("loss", loss(0.0, 0))
    assert math.isnan(sums.means()["loss"])


@pytest.mark.parametrize(
    ("precision", "dtype"), [("32-true", "float32"), ("bf16-mixed", "bfloat16")]
)
def test_the_peak_is_of_the_precision_in_use(precision, dtype, monkeypatch):
    asked = []
    monkeypatch.setattr(metrics, "measure_matmul_flops", lambda dtype: asked.append(dtype) or 1.0)
    assert metrics.peak_flops(torch.device("cpu"), precision) == 1.0
    assert asked == [getattr(torch, dtype)]
