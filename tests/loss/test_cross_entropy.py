import math

import pytest
import torch

from plm.batch import IGNORE_INDEX
from plm.errors import ConfigError
from plm.loss.cross_entropy import cross_entropy
from plm.loss.z_loss import z_loss


@pytest.mark.parametrize("kernels", ["auto", "reference"])
def test_a_case_by_hand(kernels: str):
    hidden = torch.tensor([[[1.0], [2.0], [3.0]]])
    head = torch.tensor([[0.0], [math.log(3)]])
    labels = torch.tensor([[1, 0, IGNORE_INDEX]])
    # Probabilities of the labels: 3 / 4 and 1 / 10.
    total, count = cross_entropy(hidden, head, labels, kernels=kernels)
    assert total.item() == pytest.approx(math.log(4 / 3) + math.log(10))
    assert count.item() == 2 and total.dtype == torch.float32 and count.dtype == torch.int64


def test_z_weight_adds_the_z_loss():
    hidden, head = torch.randn(2, 7, 8, dtype=torch.float64), torch.randn(11, 8).double()
    labels = torch.randint(0, 11, (2, 7))
    both = cross_entropy(hidden, head, labels, z_weight=0.3)
    apart = [cross_entropy(hidden, head, labels), z_loss(hidden, head, labels, weight=0.3)]
    assert both.total.item() == pytest.approx(sum(part.total.item() for part in apart), rel=1e-12)
    assert both.count == apart[0].count


def test_errors():
    arguments = torch.zeros(1, 2), torch.zeros(3, 2), torch.zeros(1).long()
    with pytest.raises(ConfigError, match=r"losses\.cross_entropy\.z_weight=-1 is negative"):
        cross_entropy(*arguments, z_weight=-1)
    with pytest.raises(ConfigError, match="kernels='fast' is not one of"):
        cross_entropy(*arguments, kernels="fast")
