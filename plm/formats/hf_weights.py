"""Names of weights and order of rotary rows: ours, and those of Hugging Face's files.

Ours turns neighbouring rows (2i, 2i + 1) of a head together. Hugging Face's Llama, Qwen2 and Qwen3
turn row i with row i + K/2, so their rows are moved; GGUF's `llama` and `plm`, and PLM's own class,
keep ours.
"""

import re
from collections.abc import Iterator, Mapping

import torch
from torch import Tensor

from plm.formats.architecture import Architecture

_EMBEDDING = "embed_tokens.weight"
_HEAD = "embed_tokens.lm_head.weight"
_BIAS = re.compile(r"(.*\.self_attn\.[qkv])_bias\.bias")
_HF_BIAS = re.compile(r"(.*\.self_attn\.[qkv])_proj\.bias")
_TURNED = re.compile(r"\.self_attn\.(q|k)_(proj\.weight|bias\.bias|norm\.weight)$")


def hf_name(name: str) -> str:
    """Hugging Face's name of one of our tensors."""
    if name == _HEAD:
        return "lm_head.weight"
    return "model." + _BIAS.sub(r"\1_proj.bias", name)


def our_name(name: str) -> str:
    """Our name of one of Hugging Face's tensors."""
    if name == "lm_head.weight":
        return _HEAD
    return _HF_BIAS.sub(r"\1_bias.bias", name.removeprefix("model."))


def halves_of_pairs(size: int) -> Tensor:
    """[size] int64: row i of half-split order is row index[i] of interleaved order."""
    return torch.cat((torch.arange(0, size, 2), torch.arange(1, size, 2)))


def _move(value: Tensor, heads: int, index: Tensor) -> Tensor:
    """Reorder the last len(index) rows of each head's rows; value: [heads * K, ...]."""
    head = value.unflatten(0, (heads, -1))
    kept = head.shape[1] - len(index)
    order = torch.cat((torch.arange(kept), index + kept))
    return head[:, order].flatten(0, 1)


def half_split(name: str, value: Tensor, architecture: Architecture, back: bool = False) -> Tensor:
    """One of our tensors, its rotary rows in half-split order; `back`: from there to ours.

    Args:
        name: ours.
        value: of any dtype; a tensor without rotary rows is returned as it is.
        architecture: says which rows are turned.
    """
    a = architecture
    if a.kind == "plm":
        if name.endswith("self_attn.q_proj.weight"):
            heads = a.num_attention_heads
        elif name.endswith("self_attn.kv_a_proj_with_mqa.weight"):
            heads = 1
        else:
            return value
        index = halves_of_pairs(a.qk_rope_head_dim)
    else:
        found = _TURNED.search(name)
        if found is None:
            return value
        heads = a.num_attention_heads if found[1] == "q" else a.num_key_value_heads
        if found[2] == "norm.weight":
            heads = 1
        index = halves_of_pairs(a.head_dim)
    return _move(value, heads, index.argsort() if back else index)


def to_hf(
    weights: Mapping[str, Tensor], architecture: Architecture
) -> Iterator[tuple[str, Tensor]]:
    """Our weights one by one, under Hugging Face's names and in its order of rows."""
    for name, value in weights.items():
        # PLM's class turns neighbouring rows, as ours does.
        moved = value if architecture.kind == "plm" else half_split(name, value, architecture)
        yield hf_name(name), moved
