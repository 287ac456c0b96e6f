import torch

from tests.model.common import SIZES, plain_context, tiny


def test_by_hand():
    part = tiny("model=llama").layers[0].mlp
    hidden = torch.randn(2, 3, SIZES["hidden_size"], dtype=torch.float64)
    gate = hidden @ part.gate_proj.weight.T
    up = hidden @ part.up_proj.weight.T
    expected = (gate / (1 + (-gate).exp()) * up) @ part.down_proj.weight.T
    torch.testing.assert_close(part(hidden, plain_context(2, 3)), expected)


def test_flops():
    expected = 6 * SIZES["hidden_size"] * SIZES["gated_intermediate_size"]
    assert tiny("model=llama").layers[0].mlp.flops_per_token(99) == expected
