"""What every choice of configs/model/mlp must hold."""

import pytest
import torch
from torch.utils.flop_counter import FlopCounterMode

from tests.model.common import SIZES, choices, plain_context, tiny

CHOICES = choices("model/mlp")


def part_of(choice: str, dtype: torch.dtype = torch.float64, kernels: str = "auto"):
    return tiny(f"model/mlp={choice}", kernels=kernels, dtype=dtype).layers[0].mlp


def test_there_are_choices():
    assert {"ungated", "swiglu"} <= set(CHOICES)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float32, torch.float64])
@pytest.mark.parametrize("choice", CHOICES)
def test_shape_dtype_and_gradients(choice: str, dtype: torch.dtype):
    part = part_of(choice, dtype)
    hidden = torch.randn(2, 5, SIZES["hidden_size"]).to(dtype).requires_grad_()
    out = part(hidden, plain_context(2, 5))
    assert out.shape == hidden.shape and out.dtype == dtype
    out.square().sum().backward()
    for tensor in (hidden, *part.parameters()):
        assert tensor.grad.isfinite().all() and tensor.grad.any()


@pytest.mark.parametrize("choice", CHOICES)
def test_positions_are_apart(choice: str):
    part = part_of(choice)
    hidden = torch.randn(1, 6, SIZES["hidden_size"], dtype=torch.float64)
    whole = part(hidden, plain_context(1, 6))
    torch.testing.assert_close(whole[:, 2:3], part(hidden[:, 2:3], plain_context(1, 1)))


@pytest.mark.parametrize("choice", CHOICES)
def test_flops_are_those_torch_counts(choice: str):
    part, counter = part_of(choice), FlopCounterMode(display=False)
    hidden = torch.randn(3, 5, SIZES["hidden_size"], dtype=torch.float64)
    with counter, torch.no_grad():
        part(hidden, plain_context(3, 5))
    assert counter.get_total_flops() == 3 * 5 * part.flops_per_token(5) > 0


@pytest.mark.parametrize("choice", CHOICES)
def test_named_taps(choice: str):
    part, seen = part_of(choice, kernels="reference"), []
    for name in ("pre_activation", "activation"):
        part.get_submodule(name).register_forward_hook(lambda module, args, out: seen.append(out))
    part(torch.randn(1, 2, SIZES["hidden_size"], dtype=torch.float64), plain_context(1, 2))
    assert len(seen) == 2 and seen[0].shape == seen[1].shape


@pytest.mark.parametrize("choice", CHOICES)
def test_what_writes_into_the_residual_stream_says_so(choice: str):
    # Its role decides on the smaller initial weights of depth_scaled_init.
    assert "down" in {getattr(module, "role", "") for module in part_of(choice).modules()}
