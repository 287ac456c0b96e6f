"""What every choice of configs/model/activation must hold."""

import pytest
import torch

from plm.config import build
from plm.model.common import flops
from tests.model.common import TINY, choices, compose, plain_context

CHOICES = choices("model/activation")


def made(choice: str):
    return build(compose(*TINY, f"model/activation={choice}")["model"]["activation"])()


def test_there_are_choices():
    assert {"relu2", "silu"} <= set(CHOICES)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float32, torch.float64])
@pytest.mark.parametrize("choice", CHOICES)
def test_shape_dtype_and_gradients(choice: str, dtype: torch.dtype):
    x = torch.randn(2, 5, 24).to(dtype).requires_grad_()
    part = made(choice).to(dtype)
    out = part(x, plain_context(2, 5))
    assert out.shape == x.shape and out.dtype == dtype
    out.sum().backward()
    for tensor in (x, *part.parameters()):
        assert tensor.grad.isfinite().all() and tensor.grad.any()


@pytest.mark.parametrize("choice", CHOICES)
def test_it_says_whether_it_may_be_fused_and_gives_zeros(choice: str):
    part = made(choice)
    out = part(torch.randn(200, 24), plain_context(1, 1))
    assert isinstance(part.fusible, bool) and isinstance(part.sparse, bool)
    assert ((out == 0).float().mean() > 0.2).item() == part.sparse
    assert flops(part, 8) >= 0


@pytest.mark.parametrize("choice", CHOICES)
def test_the_reference_is_the_same_function_and_twice_differentiable(choice: str):
    part, context = made(choice).double(), plain_context(1, 1)
    x = torch.randn(8, dtype=torch.float64)
    # Away from 0, where a second derivative may jump.
    x = (x + 0.2 * x.sign()).requires_grad_()
    fast = part(x, context)
    context.kernels = "reference"
    torch.testing.assert_close(part(x, context), fast, rtol=1e-12, atol=1e-12)
    assert torch.autograd.gradgradcheck(lambda value: part(value, context), x)
