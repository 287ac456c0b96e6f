"""What every choice of configs/model/linear and configs/model/matmul must hold."""

import pytest
import torch

from plm.config import build
from plm.model.common import flops
from tests.model.common import TINY, choices, compose, draw, logits_of, tiny

LINEARS, MATMULS = choices("model/linear"), choices("model/matmul")
ROLES = ["q", "k", "v", "kv_a", "kv_b", "o", "up", "down", "gate", "head"]


def made(group: str, choice: str):
    return build(compose(*TINY, f"model/{group}={choice}")["model"][group])


def test_there_are_choices():
    assert "dense" in LINEARS and "dense" in MATMULS


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float32, torch.float64])
@pytest.mark.parametrize("role", ROLES)
@pytest.mark.parametrize("choice", LINEARS)
def test_shape_dtype_and_gradients(choice: str, role: str, dtype: torch.dtype):
    part = made("linear", choice)(24, 10, role).to(dtype)
    # An adapter begins without effect, so that half of it has no gradient at first.
    for name in getattr(part, "starts_fresh", ()):
        torch.nn.init.normal_(getattr(part, name))
    x = torch.randn(2, 5, 24).to(dtype).requires_grad_()
    out = part(x)
    assert out.shape == (2, 5, 10) and out.dtype == dtype
    out.square().sum().backward()
    learning = [parameter for parameter in part.parameters() if parameter.requires_grad]
    assert learning
    for tensor in (x, *learning):
        assert tensor.grad.isfinite().all() and tensor.grad.any()
    assert flops(part, 8) > 0


@pytest.mark.parametrize("choice", LINEARS)
@pytest.mark.parametrize("model", ["plm", "llama"])
def test_a_model_of_them_has_initial_weights_by_seed(choice: str, model: str):
    first, again, other = (
        logits_of(tiny(f"model={model}", f"model/linear={choice}", seed=seed), draw(1, 6))
        for seed in (0, 0, 1)
    )
    assert torch.equal(first, again) and not torch.allclose(first, other)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float32, torch.float64])
@pytest.mark.parametrize("role", ["scores", "values"])
@pytest.mark.parametrize("choice", MATMULS)
def test_products(choice: str, role: str, dtype: torch.dtype):
    left = torch.randn(2, 3, 5, 8).to(dtype).requires_grad_()
    right = torch.randn(2, 3, 8, 7).to(dtype).requires_grad_()
    out = made("matmul", choice)(left, right, role)
    assert out.shape == (2, 3, 5, 7) and out.dtype == dtype
    out.square().sum().backward()
    assert left.grad.isfinite().all() and right.grad.isfinite().all()
