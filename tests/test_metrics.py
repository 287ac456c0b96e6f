"""Sums that a checkpoint takes along."""

import math

import torch

from plm.batch import LossSum
from plm.metrics import Sums


def loss(total: float, count: int) -> LossSum:
    return LossSum(torch.tensor(total), torch.tensor(count))


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
