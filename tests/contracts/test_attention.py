"""What every choice of configs/model/attention must hold."""

from collections.abc import Callable

import pytest
import torch
from torch import nn

from tests.contracts.mixers import CHECKS
from tests.model.common import SIZES, choices, plain_context, tiny

CHOICES = choices("model/attention")


def test_there_are_choices():
    assert {"mla", "gqa"} <= set(CHOICES)


@pytest.mark.parametrize("kernels", ["auto", "reference"])
@pytest.mark.parametrize("choice", CHOICES)
@pytest.mark.parametrize("check", CHECKS, ids=lambda check: check.__name__)
def test_mixer(choice: str, check: Callable[[nn.Module], None], kernels: str):
    check(tiny(f"model/attention={choice}", kernels=kernels).eval())


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float32, torch.float64])
@pytest.mark.parametrize("choice", CHOICES)
def test_shape_dtype_and_gradients(choice: str, dtype: torch.dtype):
    mixer = tiny(f"model/attention={choice}", dtype=dtype).layers[0].self_attn
    hidden = torch.randn(2, 5, SIZES["hidden_size"]).to(dtype).requires_grad_()
    out = mixer(hidden, plain_context(2, 5))
    assert out.shape == hidden.shape and out.dtype == dtype
    out.square().sum().backward()
    for tensor in (hidden, *mixer.parameters()):
        assert tensor.grad.isfinite().all() and tensor.grad.any()
