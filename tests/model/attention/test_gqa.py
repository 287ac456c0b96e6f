from collections.abc import Callable

import pytest
import torch
from torch import nn

from plm.config import build
from plm.errors import ConfigError
from plm.model.rotary import rotate
from plm.optimizer.common import NamedParameter, decays
from tests.contracts.mixers import CHECKS
from tests.model.common import (
    TINY,
    compose,
    draw,
    logits_of,
    plain_context,
    stepped_logits,
    tiny,
)

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


SWITCHES = ["model.attention.qkv_bias=true", "model.attention.qk_norm=true"]


@pytest.mark.parametrize("kernels", ["auto", "reference"])
@pytest.mark.parametrize("check", CHECKS, ids=lambda check: check.__name__)
def test_contract_with_all_switches(check: Callable[[nn.Module], None], kernels: str):
    check(tiny(LLAMA, *SWITCHES, "model.attention.head_dim=6", kernels=kernels).eval())


def test_switches_by_hand():
    """A bias is added before the norm, the norm acts on each head before it is turned."""
    mixer = tiny(LLAMA, *SWITCHES).layers[0].self_attn
    hidden, context = draw(1, 3).double()[..., None].expand(1, 3, 16) / 9, plain_context(1, 3)
    q, k, v = mixer._qkv(hidden, context)
    heads = (hidden @ mixer.q_proj.weight.T + mixer.q_bias.bias).view(1, 3, 4, 4)
    normed = heads / (heads.square().mean(-1, keepdim=True) + 1e-6).sqrt() * mixer.q_norm.weight
    turned = rotate(normed, context.rotary(4, 100000.0)).transpose(1, 2)
    torch.testing.assert_close(q, turned, rtol=1e-10, atol=1e-10)
    values = (hidden @ mixer.v_proj.weight.T + mixer.v_bias.bias).view(1, 3, 2, 4)
    torch.testing.assert_close(v, values.transpose(1, 2), rtol=1e-10, atol=1e-10)
    assert k.shape == (1, 2, 3, 4)


def test_new_biases_change_nothing_and_take_no_decay():
    model = build(compose(*TINY, LLAMA, SWITCHES[0])["model"])
    model.init_weights(0)
    biases = {n: p for n, p in model.named_parameters() if n.endswith("_bias.bias")}
    assert len(biases) == 3 * 2 and not any(p.any() for p in biases.values())
    roles = model.roles()
    for name, parameter in biases.items():
        assert not decays(NamedParameter(name, parameter, roles[name]), True)


def test_a_norm_that_is_not_there():
    from plm.model.attention.gqa import GQA
    from plm.model.linear.dense import dense

    with pytest.raises(ConfigError, match="qk_norm=true needs a norm"):
        GQA(16, num_attention_heads=4, num_key_value_heads=2, rope_theta=1e4, linear=dense,
            qk_norm=True)  # fmt: skip
