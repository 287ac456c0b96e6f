import math

import pytest
import torch

from plm.batch import IGNORE_INDEX
from plm.errors import ConfigError
from plm.loss.z_loss import z_loss


@pytest.mark.parametrize("kernels", ["auto", "reference"])
def test_a_case_by_hand(kernels: str):
    hidden = torch.tensor([[[1.0], [2.0], [3.0]]])
    head = torch.tensor([[0.0], [math.log(3)]])
    labels = torch.tensor([[1, 0, IGNORE_INDEX]])
    total, count = z_loss(hidden, head, labels, weight=0.5, kernels=kernels)
    assert total.item() == pytest.approx(0.5 * (math.log(4) ** 2 + math.log(10) ** 2))
    assert count.item() == 2


def test_weight_0_switches_it_off():
    hidden = torch.randn(1, 4, 3, requires_grad=True)
    total, count = z_loss(hidden, torch.randn(5, 3), torch.zeros(1, 4).long(), weight=0.0)
    total.backward()
    assert total.item() == 0 and count.item() == 4 and not hidden.grad.any()


def test_errors():
    with pytest.raises(ConfigError, match=r"losses\.z_loss\.weight=-0\.1 is negative"):
        z_loss(torch.zeros(1, 2), torch.zeros(3, 2), torch.zeros(1).long(), weight=-0.1)
