"""Triton kernels of `mla_attention` over rows: turning by the rotary angles, and the sums before
the backward.
"""

import torch
import triton
import triton.language as tl
from torch import Tensor

from plm.kernels.mla_attention_configs import PREPARE, ROTATE, ROTATE_BACK
from plm.kernels.tiles import Kernel, launch


@triton.jit
def rotated(x, cos, sin, ROWS: tl.constexpr, R: tl.constexpr):
    """Turn the pairs (2i, 2i + 1) of x, [ROWS, R], by angles, [ROWS, R / 2]; fp32."""
    even, odd = tl.split(tl.reshape(x.to(tl.float32), (ROWS, R // 2, 2)))
    return tl.reshape(tl.join(even * cos - odd * sin, even * sin + odd * cos), (ROWS, R))


@triton.jit
def rotate_kernel(
    x,
    cos,
    sin,
    out,
    rows,
    stride,
    parts,
    R: tl.constexpr,
    SIGN: tl.constexpr,
    BLOCK_ROWS: tl.constexpr,
):
    """out[row] = the sum of x[part, row] over the parts, in their order, turned by SIGN angles.

    A row of x begins `stride` elements behind the one before, a part behind all rows of another.
    """
    row = tl.program_id(0).to(tl.int64) * BLOCK_ROWS + tl.arange(0, BLOCK_ROWS)[:, None]
    inside = row < rows
    element = tl.arange(0, R)
    total = tl.zeros((BLOCK_ROWS, R), tl.float32)
    for part in range(parts):
        at = (part * rows + row) * stride + element
        total += tl.load(x + at, mask=inside, other=0.0).to(tl.float32)
    half = row * (R // 2) + tl.arange(0, R // 2)
    c = tl.load(cos + half, mask=inside, other=0.0)
    s = tl.load(sin + half, mask=inside, other=0.0) * SIGN
    turned = rotated(total, c, s, BLOCK_ROWS, R)
    tl.store(out + row * R + element, turned.to(out.dtype.element_ty), mask=inside)


@triton.jit
def prepare_kernel(
    q,
    cos,
    sin,
    out,
    grad,
    delta,
    q_rope,
    T,
    H: tl.constexpr,
    N: tl.constexpr,
    R: tl.constexpr,
    U: tl.constexpr,
    BLOCK_M: tl.constexpr,
):
    """delta = sum(out * grad), [B, H, T], and the turned queries, [B, T, H, R], of one tile."""
    tiles = tl.cdiv(T, BLOCK_M)
    m = tl.program_id(0) % tiles * BLOCK_M + tl.arange(0, BLOCK_M)
    head = tl.program_id(0) // tiles % H
    batch = (tl.program_id(0) // tiles // H).to(tl.int64)
    inside = (m < T)[:, None]
    row = batch * T * H + m[:, None].to(tl.int64) * H + head
    value, rope, half = tl.arange(0, U), tl.arange(0, R), tl.arange(0, R // 2)
    o = tl.load(out + row * U + value, mask=inside, other=0.0).to(tl.float32)
    do = tl.load(grad + row * U + value, mask=inside, other=0.0).to(tl.float32)
    tl.store(delta + (batch * H + head) * T + m, tl.sum(o * do, 1), mask=m < T)
    x = tl.load(q + row * (N + R) + N + rope, mask=inside, other=0.0)
    angle = (batch * T + m[:, None]) * (R // 2) + half
    c = tl.load(cos + angle, mask=inside, other=0.0)
    s = tl.load(sin + angle, mask=inside, other=0.0)
    turned = rotated(x, c, s, BLOCK_M, R)
    tl.store(q_rope + row * R + rope, turned.to(q_rope.dtype.element_ty), mask=inside)


def _rotate(
    kernel: Kernel,
    x: Tensor,
    out: Tensor,
    angles: tuple[Tensor, Tensor],
    stride: int,
    parts: int,
    sign: int,
) -> None:
    size = out.shape[-1]
    rows = out.numel() // size
    launch(
        kernel,
        lambda c: (triton.cdiv(rows, c["BLOCK_ROWS"]),),
        {
            "x": x,
            "cos": angles[0],
            "sin": angles[1],
            "out": out,
            "rows": rows,
            "stride": stride,
            "parts": parts,
        },
        {"R": size, "SIGN": sign},
    )


def rotate_keys(k_rope: Tensor, cos: Tensor, sin: Tensor) -> Tensor:
    """k_rope, [B, T, R] whose rows lie at one distance, turned by its positions' angles."""
    out = k_rope.new_empty(k_rope.shape)
    stride = k_rope.stride(1 if k_rope.shape[1] > 1 else 0)
    _rotate(ROTATE, k_rope, out, (cos, sin), stride, 1, 1)
    return out


def rotate_back(parts: Tensor, cos: Tensor, sin: Tensor, dtype: torch.dtype) -> Tensor:
    """Sum over the parts of [parts, B, T, R] fp32, turned back: [B, T, R] of a dtype."""
    out = parts.new_empty(parts.shape[1:], dtype=dtype)
    _rotate(ROTATE_BACK, parts, out, (cos, sin), parts.shape[-1], len(parts), -1)
    return out


def prepare(
    q: Tensor, cos: Tensor, sin: Tensor, out: Tensor, grad: Tensor, rope: int
) -> tuple[Tensor, Tensor]:
    """Sums of out * grad, [B, H, T] fp32, and the turned part of the queries, [B, T, H, R]."""
    batch, length, heads, key = q.shape
    delta = q.new_empty((batch, heads, length), dtype=torch.float32)
    q_rope = q.new_empty((batch, length, heads, rope))
    launch(
        PREPARE,
        lambda c: (triton.cdiv(length, c["BLOCK_M"]) * batch * heads,),
        {
            "q": q,
            "cos": cos,
            "sin": sin,
            "out": out,
            "grad": grad,
            "delta": delta,
            "q_rope": q_rope,
            "T": length,
        },
        {"H": heads, "N": key - rope, "R": rope, "U": out.shape[-1]},
    )
    return delta, q_rope
