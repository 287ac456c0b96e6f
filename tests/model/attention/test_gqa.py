import pytest
import torch

from plm.errors import ConfigError
from tests.model.common import draw, logits_of, stepped_logits, tiny

LLAMA = "model=llama"


def test_shared_heads_equal_repeated_ones():
    grouped, whole = tiny(LLAMA), tiny(LLAMA, "scale.num_key_value_heads=4")
    weights = grouped.state_dict()
    for name in [n for n in weights if n.endswith(("k_proj.weight", "v_proj.weight"))]:
        weights[name] = weights[name].unflatten(0, (2, 4)).repeat_interleave(2, 0).flatten(0, 1)
    whole.load_state_dict(weights)
    tokens = draw(2, 9)
    torch.testing.assert_close(
        logits_of(grouped, tokens), logits_of(whole, tokens), rtol=1e-11, atol=1e-11
    )


@pytest.mark.parametrize("value", [2, 10])
def test_head_sizes_are_free(value: int):
    model = tiny(LLAMA, "model.attention.head_dim=6", f"model.attention.v_head_dim={value}")
    mixer = model.layers[0].self_attn
    assert mixer.q_proj.weight.shape == (4 * 6, 16) and mixer.k_proj.weight.shape == (2 * 6, 16)
    assert mixer.v_proj.weight.shape == (2 * value, 16)
    assert mixer.o_proj.weight.shape == (16, 4 * value)
    assert mixer.state_bytes(3, 2) == 3 * 2 * 2 * (6 + value)
    found, _ = stepped_logits(model, draw(2, 7), 3)
    expected = logits_of(model, draw(2, 7))[:, 2:]
    torch.testing.assert_close(found, expected, rtol=1e-10, atol=1e-10)
    model.use_kernels("reference")
    torch.testing.assert_close(
        logits_of(model, draw(2, 7))[:, 2:], expected, rtol=1e-10, atol=1e-10
    )


@pytest.mark.parametrize(
    ("overrides", "message"),
    [
        (
            ["scale.num_key_value_heads=3"],
            "num_attention_heads=4 is not a multiple of num_key_value_heads=3",
        ),
        (
            ["scale.hidden_size=18"],
            "hidden_size=18 is not a multiple of num_attention_heads=4; nearest: 16, 20",
        ),
        (["model.attention.head_dim=5"], "head_dim=5 is odd; rotary turns pairs"),
    ],
)
def test_sizes_that_cannot_work(overrides: list[str], message: str):
    with pytest.raises(ConfigError, match=message):
        tiny(LLAMA, *overrides)
