import pytest
import torch

from plm.divergence.k1 import k1
from tests.divergence.common import Softmax


def test_by_hand():
    found = k1(torch.tensor([-1.0, -3.0]), torch.tensor([-2.0, -1.0]), torch.zeros(2))
    assert found.tolist() == [1, -2]


def test_the_mean_is_the_divergence_and_its_mean_gradient_is_0():
    found = Softmax()
    assert found.mean(k1).item() == pytest.approx(found.towards.item(), abs=1e-14)
    assert found.gradient(found.mean(k1)).abs().max() < 1e-15
    assert found.gradient(found.towards).abs().max() > 1e-3
