"""Attention with a shared rotary key in plain torch, its pattern written out."""

import torch
from torch import Tensor

from plm.kernels.reference.rope import rope as turned


def visible(starts: Tensor, ends: Tensor, causal: bool) -> Tensor:
    """[B, T, T] bool: which keys (last) a query sees, of the bounds of their documents, [B, T]."""
    key = torch.arange(starts.shape[1], device=starts.device)
    stop = key[:, None] + 1 if causal else ends[:, :, None]
    return (key >= starts[:, :, None]) & (key < stop)


def mla_attention(
    q: Tensor,
    kv: Tensor,
    k_rope: Tensor,
    cos: Tensor,
    sin: Tensor,
    *,
    starts: Tensor | None = None,
    ends: Tensor | None = None,
    scale: float,
    causal: bool = True,
) -> Tensor:
    """Attention whose keys are a part of each head's own and a rotary part shared by all heads.

    Args:
        q: [B, T, H, N + R], not turned yet.
        kv: [B, T, Hk, N + U]: of each head its key without position, then its value; query head h
            takes head h // (H / Hk).
        k_rope: [B, T, R], not turned yet.
        cos, sin: [B, T, R / 2], of the angles that turn the pairs (2i, 2i + 1).
        starts, ends: [B, T] int32: first position of a token's document and the one behind its
            last; None: a row is one document.
        scale: factor on the scores.
        causal: a token sees its document up to itself; False: all of its document.
    Returns:
        [B, T, H, U] in the dtype of q; the softmax is fp32 (fp64 for fp64).
    """
    batch, length, heads, key_size = q.shape
    rope = k_rope.shape[-1]
    nope = key_size - rope
    if starts is None or ends is None:
        starts = torch.zeros((batch, length), dtype=torch.int32, device=q.device)
        ends = torch.full_like(starts, length)
    q = torch.cat((q[..., :nope], turned(q[..., nope:], cos, sin)), dim=-1)
    kv = kv.repeat_interleave(heads // kv.shape[2], dim=2)
    k_rope = turned(k_rope, cos, sin)[:, :, None].expand(-1, -1, heads, -1)
    k = torch.cat((kv[..., :nope], k_rope), dim=-1)
    scores = torch.einsum("bthk,bshk->bhts", q, k) * scale
    seen = visible(starts, ends, causal)[:, None]
    wide = torch.float64 if scores.dtype == torch.float64 else torch.float32
    pattern = scores.masked_fill(~seen, float("-inf")).softmax(-1, dtype=wide).to(q.dtype)
    return torch.einsum("bhts,bshu->bthu", pattern, kv[..., nope:])
