import pytest
import torch

from plm.model.activation.relu2 import ReLU2
from tests.model.common import plain_context


@pytest.mark.parametrize("kernels", ["auto", "reference"])
def test_by_hand(kernels: str):
    context = plain_context(1, 1)
    context.kernels = kernels
    x = torch.tensor([-2.0, 0.0, 0.5, 3.0], requires_grad=True)
    out = ReLU2()(x, context)
    assert out.tolist() == [0, 0, 0.25, 9]
    out.sum().backward()
    assert x.grad.tolist() == [0, 0, 1, 6]
