"""The models that are compared on a CPU, all of one width, depth and number of parameters."""

from collections.abc import Callable
from dataclasses import dataclass
from importlib.util import find_spec
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from plm.errors import ConfigError
from plm.loss.cross_entropy import cross_entropy
from plm.model.context import Context
from scripts.bench_common import Bench

PEERS = ("llama", "litgpt", "nanogpt")
STEP = 8
"""Feed-forward sizes are multiples of it."""
TOLERANCE = 0.01
"""Largest difference in parameters, as a share."""


@dataclass
class Contender:
    """A model with its loss over given tokens.

    Attributes:
        model: in training mode.
        loss: `(model, tokens, labels) -> scalar`, the mean in nats.
        compile: puts it through torch.compile, in place.
    """

    model: nn.Module
    loss: Callable[[Any, Tensor, Tensor], Tensor]
    compile: Callable[[Any], None]


def matched(make: Callable[[int], nn.Module], target: int) -> nn.Module:
    """The model whose feed-forward size brings it closest to so many parameters.

    Args:
        make: `(feed-forward size) -> model`; each unit of the size costs the same.
        target: number of parameters.
    Raises:
        ConfigError: no multiple of STEP comes close enough.
    """
    with torch.device("meta"):
        low, high = (count(make(size)) for size in (STEP, 2 * STEP))
    size = STEP * max(1, round(1 + (target - low) / (high - low)))
    model = make(size)
    if abs(count(model) / target - 1) > TOLERANCE:
        raise ConfigError(
            f"scale: no {type(model).__name__} of this width and depth has {target:,} parameters "
            f"within {TOLERANCE:.0%}; nearest: {count(model):,}"
        )
    return model.train()


def count(model: nn.Module) -> int:
    """Parameters, a tied one once."""
    return sum(parameter.numel() for parameter in model.parameters())


def ours(bench: Bench) -> Contender:
    """The configured model; as in a run, its layers are compiled one by one."""

    def loss(model: Any, tokens: Tensor, labels: Tensor) -> Tensor:
        positions = torch.arange(tokens.shape[1]).expand(tokens.shape[0], -1)
        context = Context(positions=positions)
        out = model(tokens, context=context, labels=labels, losses={"ce": cross_entropy})
        return out.losses["ce"].total / labels.numel()

    def compile_layers(model: Any) -> None:
        for layer in model.layers:
            layer.compile()

    return Contender(bench.our_model(), loss, compile_layers)


def llama(bench: Bench, target: int) -> Contender:
    """transformers' Llama."""
    from transformers import LlamaConfig, LlamaForCausalLM

    scale = bench.settings["scale"]

    def make(size: int) -> nn.Module:
        config = LlamaConfig(
            vocab_size=scale["vocab_size"],
            hidden_size=scale["hidden_size"],
            intermediate_size=size,
            num_hidden_layers=scale["num_hidden_layers"],
            num_attention_heads=scale["num_attention_heads"],
            num_key_value_heads=scale["num_attention_heads"],
            head_dim=scale["hidden_size"] // scale["num_attention_heads"],
            max_position_embeddings=bench.seq_len,
            tie_word_embeddings=True,
            use_cache=False,
            attn_implementation="sdpa",
        )
        return LlamaForCausalLM(config)

    def loss(model: Any, tokens: Tensor, labels: Tensor) -> Tensor:
        return model(input_ids=tokens, labels=labels, shift_labels=labels).loss

    return Contender(matched(make, target), loss, lambda model: model.compile())


def litgpt(bench: Bench, target: int) -> Contender:
    """litgpt's GPT with Llama's parts, and the loss of its own pretraining."""
    from litgpt.config import Config
    from litgpt.model import GPT
    from litgpt.utils import chunked_cross_entropy

    scale = bench.settings["scale"]

    def make(size: int) -> nn.Module:
        config = Config(
            block_size=bench.seq_len,
            vocab_size=scale["vocab_size"],
            padded_vocab_size=scale["vocab_size"],
            n_layer=scale["num_hidden_layers"],
            n_head=scale["num_attention_heads"],
            n_embd=scale["hidden_size"],
            rotary_percentage=1.0,
            parallel_residual=False,
            bias=False,
            norm_class_name="RMSNorm",
            mlp_class_name="LLaMAMLP",
            intermediate_size=size,
        )
        model = GPT(config)
        model.apply(model._init_weights)
        model.transformer.wte.weight = model.lm_head.weight
        return model

    def loss(model: Any, tokens: Tensor, labels: Tensor) -> Tensor:
        return chunked_cross_entropy(model(tokens), labels)

    return Contender(matched(make, target), loss, lambda model: model.compile())


class PlainLayer(nn.Module):
    """A layer as in GPT-2: LayerNorm, heads of keys and values, a feed-forward with GELU."""

    def __init__(self, width: int, heads: int, size: int) -> None:
        super().__init__()
        self.heads = heads
        self.norm_in, self.norm_mid = (nn.LayerNorm(width, bias=False) for _ in range(2))
        self.qkv = nn.Linear(width, 3 * width, bias=False)
        self.out = nn.Linear(width, width, bias=False)
        self.up = nn.Linear(width, size, bias=False)
        self.down = nn.Linear(size, width, bias=False)

    def forward(self, hidden: Tensor) -> Tensor:
        """[B, T, D] -> [B, T, D]."""
        q, k, v = (
            part.unflatten(-1, (self.heads, -1)).transpose(1, 2)
            for part in self.qkv(self.norm_in(hidden)).chunk(3, dim=-1)
        )
        mixed = F.scaled_dot_product_attention(q, k, v, is_causal=True)
        hidden = hidden + self.out(mixed.transpose(1, 2).flatten(-2))
        return hidden + self.down(F.gelu(self.up(self.norm_mid(hidden))))


class PlainGPT(nn.Module):
    """A GPT in the manner of nanoGPT: learned positions, tied head, full logits."""

    def __init__(self, vocab: int, width: int, depth: int, heads: int, length: int, size: int):
        super().__init__()
        self.tokens, self.positions = nn.Embedding(vocab, width), nn.Embedding(length, width)
        self.layers = nn.ModuleList(PlainLayer(width, heads, size) for _ in range(depth))
        self.norm = nn.LayerNorm(width, bias=False)
        self.head = nn.Linear(width, vocab, bias=False)
        for weight in (p for p in self.parameters() if p.dim() == 2):
            nn.init.normal_(weight, std=0.02)
        self.head.weight = self.tokens.weight

    def forward(self, tokens: Tensor) -> Tensor:
        """[B, T] int64 -> logits [B, T, V]."""
        hidden = self.tokens(tokens) + self.positions.weight[: tokens.shape[1]]
        for layer in self.layers:
            hidden = layer(hidden)
        return self.head(self.norm(hidden))


def nanogpt(bench: Bench, target: int) -> Contender:
    """A GPT with nothing in it that is not needed."""
    scale = bench.settings["scale"]

    def make(size: int) -> nn.Module:
        shape = ("vocab_size", "hidden_size", "num_hidden_layers", "num_attention_heads")
        return PlainGPT(*(scale[key] for key in shape), bench.seq_len, size)

    def loss(model: Any, tokens: Tensor, labels: Tensor) -> Tensor:
        return F.cross_entropy(model(tokens).flatten(0, -2), labels.flatten())

    return Contender(matched(make, target), loss, lambda model: model.compile())


def missing(peers: tuple[str, ...]) -> dict[str, str]:
    """Which of the peers cannot be compared here, and why."""
    packages = {"llama": "transformers", "litgpt": "litgpt"}
    return {
        name: f"the package {packages[name]} is not installed"
        for name in peers
        if name in packages and find_spec(packages[name]) is None
    }


def peer(name: str, bench: Bench, target: int) -> Contender:
    """A peer by its name, of about so many parameters."""
    torch.manual_seed(0)
    return {"llama": llama, "litgpt": litgpt, "nanogpt": nanogpt}[name](bench, target)
