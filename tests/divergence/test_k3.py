import math

import pytest
import torch

from plm.divergence.k3 import k3
from tests.divergence.common import Softmax


def test_by_hand():
    logps = torch.tensor([-1.0, -3.0], dtype=torch.float64)
    found = k3(logps, torch.tensor([-2.0, -1.0], dtype=torch.float64), torch.zeros(2))
    expected = [math.exp(-1) + 1 - 1, math.exp(2) - 2 - 1]
    assert found.tolist() == pytest.approx(expected, abs=1e-15)


def test_it_keeps_its_digits_near_0():
    """exp(d) − 1 would lose them: of 1e-7 nats the value is 5e-15."""
    found = k3(torch.zeros(1).double(), torch.full((1,), 1e-7, dtype=torch.float64), torch.zeros(1))
    assert found.item() == pytest.approx(5e-15, rel=1e-6)


def test_the_mean_is_the_divergence_and_its_gradient_that_of_the_other_direction():
    found = Softmax()
    assert found.mean(k3).item() == pytest.approx(found.towards.item(), abs=1e-14)
    mine = found.gradient(found.mean(k3))
    torch.testing.assert_close(mine, found.gradient(found.back), rtol=0, atol=1e-15)
    assert (mine - found.gradient(found.towards)).abs().max() > 1e-3
