"""Triton kernel of the rotary embedding: one read, one write, pairs turned in registers.

Bytes: x and out, and the two tables once for each group of heads, from cache after the first.
"""

import torch
import triton
import triton.language as tl
from torch import Tensor

from plm.kernels.rope_configs import ROPE
from plm.kernels.rows import padded
from plm.kernels.tiles import launch


@triton.jit
def turned(values, cosine, sine, INVERSE: tl.constexpr):
    """Interleaved pairs of values [N, 2 P] turned by the angles of cosine and sine [N, P]."""
    N: tl.constexpr = values.shape[0]
    PAIRS: tl.constexpr = values.shape[1] // 2
    even, odd = tl.split(tl.reshape(values, (N, PAIRS, 2)))
    if INVERSE:
        sine = -sine
    pair = tl.join(even * cosine - odd * sine, even * sine + odd * cosine)
    return tl.reshape(pair, (N, PAIRS * 2))


@triton.jit
def rope(
    x,
    cos,
    sin,
    out,
    tokens,
    stride_token,
    stride_head,
    H: tl.constexpr,
    R: tl.constexpr,
    WIDTH: tl.constexpr,
    INVERSE: tl.constexpr,
    BLOCK_T: tl.constexpr,
    BLOCK_H: tl.constexpr,
):
    """out [tokens, H, R] = x turned by its token's angle; cos, sin [tokens, R / 2] fp32."""
    token = tl.program_id(0) * BLOCK_T + tl.arange(0, BLOCK_T)
    long = token.to(tl.int64)[:, None]
    pair, column = tl.arange(0, WIDTH // 2)[None, :], tl.arange(0, WIDTH)[None, :]
    there = (token < tokens)[:, None]
    known = there & (pair < R // 2)
    cosine = tl.load(cos + long * (R // 2) + pair, mask=known, other=0.0).to(tl.float32)
    sine = tl.load(sin + long * (R // 2) + pair, mask=known, other=0.0).to(tl.float32)
    for step in tl.static_range(BLOCK_H):
        head = tl.program_id(1) * BLOCK_H + step
        # No head past the last has a token.
        inside = (token < tl.where(head < H, tokens, 0))[:, None] & (column < R)
        place = long * stride_token + head * stride_head + column
        values = tl.load(x + place, mask=inside, other=0.0).to(tl.float32)
        values = turned(values, cosine, sine, INVERSE)
        tl.store(out + (long * H + head) * R + column, values.to(out.dtype.element_ty), inside)


def turn(x: Tensor, cos: Tensor, sin: Tensor, inverse: bool) -> Tensor:
    """x turned forth, or back; contiguous.

    Args:
        x: [B, T, H, R] or [B, T, R]; tokens at one stride, the last dimension contiguous.
        cos, sin: [B, T, R / 2], contiguous.
    """
    out = torch.empty(x.shape, dtype=x.dtype, device=x.device)
    heads, size = (x.shape[2] if x.dim() == 4 else 1), x.shape[-1]
    tokens = x.shape[0] * x.shape[1]
    launch(
        ROPE,
        lambda c: (triton.cdiv(tokens, c["BLOCK_T"]), triton.cdiv(heads, c["BLOCK_H"])),
        {
            "x": x,
            "cos": cos,
            "sin": sin,
            "out": out,
            "tokens": tokens,
            "stride_token": x.stride(1) if x.shape[1] > 1 else x.stride(0),
            "stride_head": x.stride(2) if x.dim() == 4 else 0,
        },
        {"H": heads, "R": size, "WIDTH": padded(size), "INVERSE": inverse},
    )
    return out
