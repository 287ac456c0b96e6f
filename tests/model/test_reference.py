"""kernels=reference: the same figures, and differentiable twice."""

import pytest
import torch

from plm.config import build
from plm.loss.cross_entropy import cross_entropy
from tests.model.common import (
    DOCUMENTS,
    SIZES,
    TINY,
    compose,
    draw,
    largest,
    packed_context,
    plain_context,
    tiny,
)

LENGTH = sum(DOCUMENTS)
LOSSES = {"ce": cross_entropy}


@pytest.fixture(params=["plm", "llama"])
def choice(request) -> str:
    return f"model={request.param}"


@pytest.mark.parametrize("packed", [False, True])
def test_reference_equals_auto(choice: str, packed: bool):
    found = []
    tokens, labels = draw(2, LENGTH), draw(2, LENGTH, seed=1)
    for kernels in ("auto", "reference"):
        model = tiny(choice, kernels=kernels)
        context = packed_context(2) if packed else plain_context(2, LENGTH)
        loss = model(tokens, context=context, labels=labels, losses=LOSSES).losses["ce"].total
        loss.backward()
        found.append([loss.detach(), *(p.grad for p in model.parameters())])
    assert all(largest(a, b) < 1e-10 for a, b in zip(*found, strict=True))


def test_reference_can_be_differentiated_twice(choice: str):
    model = tiny(choice, "scale.num_hidden_layers=1", kernels="reference")
    vectors = torch.randn(1, 3, SIZES["hidden_size"], dtype=torch.float64, requires_grad=True)
    labels = draw(1, 3)

    def loss_at(inputs_embeds: torch.Tensor) -> torch.Tensor:
        out = model(
            inputs_embeds=inputs_embeds, context=plain_context(1, 3), labels=labels, losses=LOSSES
        )
        return out.losses["ce"].total

    assert torch.autograd.gradgradcheck(loss_at, vectors, atol=1e-4, rtol=1e-3)


def test_every_parameter_has_a_second_derivative(choice: str):
    model = tiny(choice)
    model.use_kernels("reference")
    parameters = dict(model.named_parameters())
    out = model(
        draw(2, LENGTH), context=packed_context(2), labels=draw(2, LENGTH, seed=1), losses=LOSSES
    )
    first = torch.autograd.grad(out.losses["ce"].total, parameters.values(), create_graph=True)
    size = sum(grad.square().sum() for grad in first)
    second = torch.autograd.grad(size, parameters.values())
    for name, grad in zip(parameters, second, strict=True):
        assert grad.isfinite().all() and grad.any(), name


def test_the_setting_reaches_every_part():
    model = build(compose(*TINY, "kernels=reference")["model"])
    assert model.kernels == model.norm.kernels == "reference"
    assert model.layers[1].self_attn.kv_a_layernorm.kernels == "reference"


def test_auto_refuses_a_second_derivative():
    model = tiny()
    out = model(draw(1, 5), context=plain_context(1, 5), labels=draw(1, 5), losses=LOSSES)
    weight = model.norm.weight
    with pytest.raises(RuntimeError):
        (first,) = torch.autograd.grad(out.losses["ce"].total, weight, create_graph=True)
        torch.autograd.grad(first.sum(), weight)
