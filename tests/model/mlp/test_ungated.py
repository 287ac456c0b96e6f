import torch

from tests.model.common import SIZES, plain_context, tiny


def test_by_hand():
    part = tiny().layers[0].mlp
    hidden = torch.randn(2, 3, SIZES["hidden_size"], dtype=torch.float64)
    wide = hidden @ part.up_proj.weight.T
    expected = torch.where(wide > 0, wide * wide, 0) @ part.down_proj.weight.T
    torch.testing.assert_close(part(hidden, plain_context(2, 3)), expected)


def test_flops():
    expected = 4 * SIZES["hidden_size"] * SIZES["intermediate_size"]
    assert tiny().layers[0].mlp.flops_per_token(99) == expected
