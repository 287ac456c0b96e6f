"""What every choice of configs/model/block must hold."""

import pytest
import torch

from plm.batch import LossSum
from tests.model.common import SIZES, choices, draw, logits_of, plain_context, stepped_logits, tiny

CHOICES = choices("model/block")


@pytest.fixture(params=CHOICES)
def model(request):
    return tiny(f"model/block={request.param}")


def test_there_are_choices():
    assert "pre_norm" in CHOICES


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float32, torch.float64])
def test_shape_dtype_and_gradients(model, dtype: torch.dtype):
    layer = model.to(dtype).layers[0]
    hidden = torch.randn(2, 5, SIZES["hidden_size"]).to(dtype).requires_grad_()
    out = layer(hidden, plain_context(2, 5))
    assert out.shape == hidden.shape and out.dtype == dtype
    out.square().sum().backward()
    for tensor in (hidden, *layer.parameters()):
        assert tensor.grad.isfinite().all() and tensor.grad.any()


def test_stepping_equals_the_forward(model):
    found, _ = stepped_logits(model, draw(2, 9), 4)
    expected = logits_of(model, draw(2, 9))[:, 3:]
    torch.testing.assert_close(found, expected, rtol=1e-10, atol=1e-10)


def test_flops_hold_its_parts(model):
    layer = model.layers[0]
    parts = layer.self_attn.flops_per_token(8) + layer.mlp.flops_per_token(8)
    assert layer.flops_per_token(8) >= parts > 0


@pytest.mark.parametrize("recompute", [False, True])
def test_losses_of_parts_have_their_path(model, recompute: bool):
    for layer in model.layers:
        for part in (layer.self_attn, layer.mlp):
            part.register_forward_hook(
                lambda module, args, out: args[1].add_loss(
                    "size", LossSum(out.square().sum(), torch.tensor(out[..., 0].numel()))
                )
            )
    model.train().checkpoint_activations = recompute
    losses = model(draw(2, 5), context=plain_context(2, 5), labels=draw(2, 5)).losses
    names = ["self_attn.size", "mlp.size"]
    assert list(losses) == [f"layers.{index}.{name}" for index in range(2) for name in names]
    sum(loss.total for loss in losses.values()).backward()
    assert len(losses) == 4 and model.layers[0].mlp.up_proj.weight.grad.any()
