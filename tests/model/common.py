"""Tiny models and windows that the tests of the model and of its seams share."""

from functools import lru_cache
from pathlib import Path
from typing import Any

import torch
from hydra import compose as hydra_compose
from hydra import initialize_config_dir
from torch import Tensor, nn

from plm.config import build, plain, register_resolvers
from plm.model.context import Context

ROOT = Path(__file__).resolve().parents[2]
# No two sizes agree where they need not, so that a swapped axis cannot go unseen.
SIZES = {
    "hidden_size": 16,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "kv_lora_rank": 10,
    "qk_nope_head_dim": 8,
    "qk_rope_head_dim": 4,
    "v_head_dim": 6,
    "intermediate_size": 24,
    "gated_intermediate_size": 20,
    "vocab_size": 37,
    "max_position_embeddings": 64,
    "initializer_range": 0.3,
}
TINY = ("scale=test", *(f"scale.{name}={value}" for name, value in SIZES.items()))
DOCUMENTS = (5, 1, 7, 3)


@lru_cache
def compose(*overrides: str) -> dict[str, Any]:
    """The whole configuration, as train.py composes it, plain; not to be changed."""
    register_resolvers()
    with initialize_config_dir(str(ROOT / "configs"), version_base=None):
        return plain(hydra_compose("train", overrides=list(overrides)))


def tiny(
    *overrides: str, dtype: torch.dtype = torch.float64, seed: int = 0, kernels: str = "auto"
) -> nn.Module:
    """A tiny model by overrides, with drawn weights, norms included."""
    model = build(compose(*TINY, *overrides)["model"])
    model.init_weights(seed)
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if parameter.dim() == 1:
                generator = torch.Generator().manual_seed(len(name) + seed)
                parameter.add_(0.2 * torch.randn(parameter.shape, generator=generator))
    # Not by an override: composing takes longer than all the rest.
    model.use_kernels(kernels)
    return model.to(dtype)


def choices(group: str) -> list[str]:
    """Names of a group's choices."""
    return sorted(path.stem for path in (ROOT / "configs" / group).glob("*.yaml"))


def draw(*shape: int, seed: int = 0) -> Tensor:
    """Random tokens, [...] int64."""
    generator = torch.Generator().manual_seed(seed)
    return torch.randint(0, SIZES["vocab_size"], shape, generator=generator)


def plain_context(batch: int, length: int, start: int = 0) -> Context:
    """One document a row."""
    return Context(positions=torch.arange(start, start + length).expand(batch, -1))


def packed_context(batch: int, lengths: tuple[int, ...] = DOCUMENTS) -> Context:
    """The same documents in every row, kept apart."""
    positions = torch.cat([torch.arange(length) for length in lengths])
    doc_ids = torch.cat([torch.full((n,), index) for index, n in enumerate(lengths)])
    return Context(positions=positions.expand(batch, -1), doc_ids=doc_ids.expand(batch, -1))


def spans(lengths: tuple[int, ...] = DOCUMENTS) -> list[slice]:
    """Where each document lies in its row."""
    ends = torch.tensor(lengths).cumsum(0).tolist()
    return [slice(end - length, end) for end, length in zip(ends, lengths, strict=True)]


def logits_of(model: nn.Module, tokens: Tensor, context: Context | None = None) -> Tensor:
    """[B, T, V] of a full forward."""
    return model(tokens, context=context or plain_context(*tokens.shape)).logits


@torch.no_grad()
def stepped_logits(model: nn.Module, tokens: Tensor, prefill: int) -> tuple[Tensor, list]:
    """[B, T - prefill + 1, V]: from the prefill's last position on, one at a time; and the state.

    The state has room to spare, so that what lies unused in it must not be seen.
    """
    batch, length = tokens.shape
    states = model.init_state(batch, length + 3, "cpu", model.embed_tokens.head_weight.dtype)
    found = [model.step(tokens[:, :prefill], states, plain_context(batch, prefill))]
    for place in range(prefill, length):
        context = plain_context(batch, 1, start=place)
        found.append(model.step(tokens[:, place : place + 1], states, context))
    return torch.stack(found, dim=1), states


def largest(found: Tensor, expected: Tensor) -> float:
    """Largest difference, as a share of the largest expected value."""
    return ((found - expected).abs().max() / expected.abs().max()).item()
