"""What every choice of configs/model/norm must hold."""

import pytest
import torch

from plm.config import build
from tests.model.common import TINY, choices, compose

CHOICES = choices("model/norm")


def made(choice: str):
    return build(compose(*TINY, f"model/norm={choice}")["model"]["norm"])


def test_there_are_choices():
    assert "rms_norm" in CHOICES


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float32, torch.float64])
@pytest.mark.parametrize("choice", CHOICES)
def test_shape_dtype_and_gradients(choice: str, dtype: torch.dtype):
    x = torch.randn(2, 5, 24).to(dtype).requires_grad_()
    part = made(choice)(24).to(dtype)
    out = part(x)
    assert out.shape == x.shape and out.dtype == dtype
    out.square().sum().backward()
    for tensor in (x, *part.parameters()):
        assert tensor.grad.isfinite().all() and tensor.grad.any()


@pytest.mark.parametrize("choice", CHOICES)
def test_a_part_made_without_memory_starts_like_any_other(choice: str):
    with torch.device("meta"):
        part = made(choice)(24)
    part.to_empty(device="cpu")
    for tensor in part.parameters():
        tensor.data.fill_(float("nan"))
    part.init_weights(torch.Generator(), 0.02)
    x = torch.randn(3, 24)
    assert torch.equal(part(x), made(choice)(24)(x))


@pytest.mark.parametrize("choice", CHOICES)
def test_the_reference_is_the_same_function_and_twice_differentiable(choice: str):
    part = made(choice)(6).double()
    x = torch.randn(2, 6, dtype=torch.float64, requires_grad=True)
    fast = part(x)
    part.kernels = "reference"
    torch.testing.assert_close(part(x), fast, rtol=1e-12, atol=1e-12)
    assert torch.autograd.gradgradcheck(part, x)
