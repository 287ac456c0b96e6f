"""What every choice of configs/model/embedding must hold."""

import pytest
import torch

from plm.loss.cross_entropy import cross_entropy
from plm.rollout.generate import generate
from tests.model.common import SIZES, choices, draw, plain_context, tiny

CHOICES = choices("model/embedding")


@pytest.fixture(params=CHOICES)
def choice(request) -> str:
    return f"model/embedding={request.param}"


def test_there_are_choices():
    assert {"tied", "untied"} <= set(CHOICES)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float32, torch.float64])
def test_shape_dtype_and_gradients(choice: str, dtype: torch.dtype):
    model = tiny(choice, dtype=dtype)
    part = model.embed_tokens
    vectors, head = part(draw(2, 5)), part.head_weight
    assert vectors.shape == (2, 5, SIZES["hidden_size"]) and vectors.dtype == dtype
    assert head.shape == (SIZES["vocab_size"], SIZES["hidden_size"]) and head.dtype == dtype
    out = model(
        draw(2, 5), context=plain_context(2, 5), labels=draw(2, 5), losses={"ce": cross_entropy}
    )
    out.losses["ce"].total.backward()
    for parameter in part.parameters():
        assert parameter.grad.isfinite().all() and parameter.grad.any()


def test_it_says_whether_it_is_tied(choice: str):
    part = tiny(choice).embed_tokens
    tables = sum(1 for _ in part.parameters())
    assert part.tied == (tables == 1)
    assert part.head_weight in set(part.parameters())


def test_flops_count_the_head_once(choice: str):
    model = tiny(choice)
    head = 2 * SIZES["vocab_size"] * SIZES["hidden_size"]
    layers = sum(layer.flops_per_token(8) for layer in model.layers)
    assert model.flops_per_token(8) == head + layers


def test_it_generates(choice: str):
    assert generate(tiny(choice), draw(2, 3), 4).shape == (2, 4)
