import math

import pytest
import torch
from torch.utils.flop_counter import FlopCounterMode

from plm.errors import ConfigError
from tests.model.common import SIZES, compose, draw, logits_of, plain_context, stepped_logits, tiny

ROOM = SIZES["kv_lora_rank"] + SIZES["qk_rope_head_dim"]


@pytest.fixture
def mixer():
    return tiny(kernels="reference").layers[0].self_attn


def test_by_hand(mixer):
    hidden = torch.randn(1, 4, SIZES["hidden_size"], dtype=torch.float64)
    context = plain_context(1, 4)
    context.wide = torch.float64
    latent, key_part = mixer.kv_a_proj_with_mqa(hidden[0]).split([10, 4], dim=-1)
    kv = mixer.kv_b_proj(mixer.kv_a_layernorm(latent)).view(4, 4, 14)
    q = mixer.q_proj(hidden[0]).view(4, 4, 12)

    def turn(vector: torch.Tensor, place: int) -> torch.Tensor:
        pairs = torch.view_as_complex(vector.view(-1, 2).contiguous())
        angle = place * mixer.rope_theta ** (-torch.arange(0, 4, 2, dtype=torch.float64) / 4)
        return torch.view_as_real(pairs * torch.polar(torch.ones_like(angle), angle)).flatten()

    rows = []
    for here in range(4):
        heads = []
        for head in range(4):
            query = torch.cat((q[here, head, :8], turn(q[here, head, 8:], here)))
            scores = []
            for there in range(here + 1):
                key = torch.cat((kv[there, head, :8], turn(key_part[there], there)))
                scores.append(query @ key / math.sqrt(12))
            weights = torch.stack(scores).softmax(0)
            heads.append(weights @ kv[: here + 1, head, 8:])
        rows.append(mixer.o_proj(torch.cat(heads)))
    torch.testing.assert_close(mixer(hidden, context)[0], torch.stack(rows))


def test_the_state_holds_latents_only(mixer):
    state = mixer.init_state(2, 7, torch.device("cpu"), torch.float32)
    assert {name: tuple(t.shape) for name, t in state.items()} == {"latent": (2, 7, ROOM)}
    assert mixer.state_bytes(7, 4) == 7 * 4 * ROOM
    assert mixer.state_bytes(7, 4, expanded=True) == 7 * 4 * 4 * (12 + 6)


def flops_of_a_step(kernels: str, past: int) -> int:
    model = tiny(kernels=kernels)
    _, states = stepped_logits(model, draw(1, past), past)
    counter = FlopCounterMode(display=False)
    with counter, torch.no_grad():
        model.step(draw(1, 1), states, plain_context(1, 1, start=past))
    return counter.get_total_flops()


def test_a_step_does_not_expand_the_cache():
    heads, rank, rope, key, value = 4, 10, 4, 12, 6
    per_position = {
        "auto": 2 * heads * (rank + rope + rank),
        "reference": 2 * heads * (key + value) + 2 * rank * heads * (8 + value),
    }
    for kernels, expected in per_position.items():
        grown = flops_of_a_step(kernels, 20) - flops_of_a_step(kernels, 10)
        assert grown == 10 * SIZES["num_hidden_layers"] * expected


@pytest.mark.parametrize("change", ["subclass", "kernels", "matmul"])
def test_absorbing_gives_way_to_what_it_would_go_round(change: str):
    model = tiny(kernels="reference" if change == "kernels" else "auto")
    for layer in model.layers:
        if change == "subclass":
            # As a quantised layer may be: its weight is not what its forward multiplies by.
            layer.self_attn.kv_b_proj.__class__ = Halved
        if change == "matmul":
            layer.self_attn.attend.matmul = halved
            layer.self_attn.attend.plain = False
    found, _ = stepped_logits(model, draw(2, 6), 2)
    expected = logits_of(model, draw(2, 6))[:, 1:]
    torch.testing.assert_close(found, expected, rtol=1e-10, atol=1e-10)
    if change != "kernels":
        assert not torch.allclose(expected, logits_of(tiny(), draw(2, 6))[:, 1:])


class Halved(torch.nn.Linear):
    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return super().forward(x) * 0.5


def halved(left: torch.Tensor, right: torch.Tensor, role: str) -> torch.Tensor:
    return left @ right * 0.5


def test_an_odd_rotary_size_is_refused():
    with pytest.raises(ConfigError, match="qk_rope_head_dim=5 is odd; rotary turns pairs"):
        tiny("scale.qk_rope_head_dim=5")


def test_the_yaml_names_the_paper_s_base():
    assert compose()["model"]["attention"]["rope_theta"] == 100_000.0
