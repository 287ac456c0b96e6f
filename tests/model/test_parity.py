"""The same weights give the same logits and gradients as in transformers' models."""

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn
from transformers import DeepseekV3Config, DeepseekV3ForCausalLM, LlamaConfig, LlamaForCausalLM
from transformers.models.deepseek_v3 import modeling_deepseek_v3 as deepseek
from transformers.models.llama import modeling_llama as llama

from plm.loss.cross_entropy import cross_entropy
from tests.model.common import SIZES, draw, largest, plain_context, tiny

THETA = 100_000.0
SHARED = {
    name: SIZES[name]
    for name in (
        "vocab_size hidden_size num_hidden_layers num_attention_heads max_position_embeddings"
    ).split()
} | {
    "rms_norm_eps": 1e-6,
    "rope_parameters": {"rope_type": "default", "rope_theta": THETA},
    "tie_word_embeddings": True,
    "attention_bias": False,
    "attn_implementation": "sdpa",
    "pad_token_id": None,
    "eos_token_id": None,
}


class SquaredReLU(nn.Module):
    """PLM's feed-forward, for a peer that has a gated one only."""

    def __init__(self, config) -> None:
        super().__init__()
        self.up_proj = nn.Linear(config.hidden_size, config.intermediate_size, bias=False)
        self.down_proj = nn.Linear(config.intermediate_size, config.hidden_size, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        return self.down_proj(F.relu(self.up_proj(x)).square())


def peer_of_plm() -> nn.Module:
    names = "kv_lora_rank qk_nope_head_dim qk_rope_head_dim v_head_dim intermediate_size".split()
    config = DeepseekV3Config(
        **SHARED,
        **{name: SIZES[name] for name in names},
        num_key_value_heads=SIZES["num_attention_heads"],
        q_lora_rank=None,
        rope_interleave=True,
        first_k_dense_replace=SIZES["num_hidden_layers"],
    )
    model = DeepseekV3ForCausalLM(config)
    for layer in model.model.layers:
        layer.mlp = SquaredReLU(config)
    return model


def peer_of_llama() -> nn.Module:
    return LlamaForCausalLM(
        LlamaConfig(
            **SHARED,
            num_key_value_heads=SIZES["num_key_value_heads"],
            intermediate_size=SIZES["gated_intermediate_size"],
            hidden_act="silu",
            mlp_bias=False,
        )
    )


def norm_without_cast(self, x: Tensor) -> Tensor:
    return self.weight * x * torch.rsqrt(x.square().mean(-1, keepdim=True) + self.variance_epsilon)


def rotary_without_cast(self, x: Tensor, position_ids: Tensor) -> tuple[Tensor, Tensor]:
    size = 2 * len(self.inv_freq)
    rates = THETA ** (-torch.arange(0, size, 2, dtype=x.dtype) / size)
    angle = (position_ids[..., None].to(x.dtype) * rates).repeat(1, 1, 2)
    return angle.cos(), angle.sin()


@pytest.fixture
def patched(monkeypatch):
    """The peers without their fixed fp32 in norm and rotary."""
    for norm in (deepseek.DeepseekV3RMSNorm, llama.LlamaRMSNorm):
        monkeypatch.setattr(norm, "forward", norm_without_cast)
    for rotary in (deepseek.DeepseekV3RotaryEmbedding, llama.LlamaRotaryEmbedding):
        monkeypatch.setattr(rotary, "forward", rotary_without_cast)


def ours_from(name: str, theirs: Tensor) -> Tensor:
    """A tensor of the peer in our layout: Llama's rotary pairs are (i, i + K / 2)."""
    if not name.endswith(("q_proj.weight", "k_proj.weight")):
        return theirs
    size = SIZES["hidden_size"] // SIZES["num_attention_heads"]
    halves = theirs.unflatten(0, (-1, 2, size // 2))
    return halves.transpose(1, 2).flatten(0, 2)


def pair(choice: str, dtype: torch.dtype, kernels: str) -> tuple[nn.Module, nn.Module, dict]:
    """Ours, theirs with the same weights, and what tells names in ours from names in theirs."""
    ours = tiny(f"model={choice}", kernels=kernels, dtype=dtype)
    theirs = (peer_of_plm() if choice == "plm" else peer_of_llama()).to(dtype)
    same = {name: theirs.get_parameter(f"model.{name}") for name, _ in ours.named_parameters()}
    assert len(same) == len(list(theirs.parameters()))
    with torch.no_grad():
        for parameter in theirs.parameters():
            drawn = 0.2 * torch.randn(parameter.shape, dtype=torch.float64)
            parameter.copy_(1 + drawn if parameter.dim() == 1 else drawn)
        for name, parameter in ours.named_parameters():
            parameter.copy_(ours_from(name, same[name]) if choice == "llama" else same[name])
    return ours, theirs, same


def compare(choice: str, dtype: torch.dtype, kernels: str = "auto") -> dict[str, float]:
    """Largest relative difference of the logits and of every parameter's gradient, by name."""
    ours, theirs, same = pair(choice, dtype, kernels)
    tokens, labels = draw(3, 20), draw(3, 20, seed=1)
    mine = ours(tokens, context=plain_context(3, 20)).logits
    logits = theirs(tokens).logits
    loss = ours(
        tokens, context=plain_context(3, 20), labels=labels, losses={"ce": cross_entropy}
    ).losses["ce"]
    (loss.total / loss.count).backward()
    F.cross_entropy(logits.flatten(0, 1), labels.flatten()).backward()
    found = {"logits": largest(mine, logits)}
    for name, parameter in ours.named_parameters():
        grad = same[name].grad
        expected = ours_from(name, grad) if choice == "llama" else grad
        found[name] = largest(parameter.grad, expected)
    return found


@pytest.mark.parametrize("kernels", ["auto", "reference"])
@pytest.mark.parametrize("choice", ["plm", "llama"])
class TestParity:
    def test_fp32(self, choice: str, kernels: str):
        found = compare(choice, torch.float32, kernels)
        assert max(found.values()) < 1e-5, found

    def test_fp64_against_the_peer_as_it_is(self, choice: str, kernels: str):
        found = compare(choice, torch.float64, kernels)
        assert 1e-10 < max(found.values()) < 1e-6, found

    @pytest.mark.usefixtures("patched")
    def test_fp64_without_the_peers_casts(self, choice: str, kernels: str):
        found = compare(choice, torch.float64, kernels)
        assert max(found.values()) < 1e-10, found


@pytest.mark.parametrize("choice", ["plm", "llama"])
def test_the_peers_greedy_continuation(choice: str, patched):
    from plm.rollout.generate import generate

    ours, theirs, _ = pair(choice, torch.float64, "auto")
    prompt = draw(1, 6)
    expected = theirs.generate(prompt, max_new_tokens=12, do_sample=False, use_cache=False)
    assert torch.equal(generate(ours, prompt, 12), expected[:, 6:])
