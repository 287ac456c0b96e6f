import torch

from plm.divergence.k2 import k2
from tests.divergence.common import Softmax


def test_by_hand():
    found = k2(torch.tensor([-1.0, -3.0]), torch.tensor([-2.0, -1.0]), torch.zeros(2))
    assert found.tolist() == [0.5, 2]


def test_the_mean_gradient_is_that_of_the_divergence():
    found = Softmax()
    mine, its = found.gradient(found.mean(k2)), found.gradient(found.towards)
    torch.testing.assert_close(mine, its, rtol=0, atol=1e-15)
    assert abs(found.mean(k2) - found.towards) > 1e-3
