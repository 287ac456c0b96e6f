"""Triton kernel of `mla_attention`'s forward, and what it shares with the backward's."""

import math

import torch
import triton
import triton.language as tl
from torch import Tensor

from plm.kernels.mla_attention_configs import FORWARD
from plm.kernels.mla_attention_rows import rotate_keys, rotated
from plm.kernels.tiles import launch

LOG2E = math.log2(math.e)


@triton.jit
def load_parts(at, mask, SIZE: tl.constexpr, PART: tl.constexpr):
    """SIZE columns from the pointers [rows, 1] on, as tiles of PART columns; mask may be None."""
    parts = ()
    for i in tl.static_range(SIZE // PART):
        columns = at + i * PART + tl.arange(0, PART)
        if mask is None:
            parts += (tl.load(columns),)
        else:
            parts += (tl.load(columns, mask=mask, other=0.0),)
    return parts


@triton.jit
def zero_parts(ROWS: tl.constexpr, SIZE: tl.constexpr, PART: tl.constexpr):
    """Tiles of PART columns to add SIZE columns up in."""
    parts = ()
    for _ in tl.static_range(SIZE // PART):
        parts += (tl.zeros((ROWS, PART), tl.float32),)
    return parts


@triton.jit
def store_parts(at, parts, factor, mask, PART: tl.constexpr):
    """The tiles times a factor, side by side from the pointers [rows, 1] on."""
    for i in tl.static_range(len(parts)):
        value = (parts[i] * factor).to(at.dtype.element_ty)
        tl.store(at + i * PART + tl.arange(0, PART), value, mask=mask)


@triton.jit
def dot_parts(a, b, total):
    """total + a @ b.T, both in tiles of columns."""
    for i in tl.static_range(len(a)):
        total = tl.dot(a[i], tl.trans(b[i]), total, input_precision="ieee")
    return total


@triton.jit
def add_parts(totals, weight, parts):
    """totals + weight @ parts, tile by tile."""
    added = ()
    for i in tl.static_range(len(parts)):
        added += (tl.dot(weight, parts[i], totals[i], input_precision="ieee"),)
    return added


@triton.jit
def scale_parts(parts, factor):
    """Each tile times a factor."""
    scaled = ()
    for i in tl.static_range(len(parts)):
        scaled += (parts[i] * factor,)
    return scaled


@triton.jit
def key_bounds(starts, ends, T, low, size, BLOCK: tl.constexpr, CAUSAL: tl.constexpr):
    """Where the keys of queries low … low + size begin and end, and the blocks that all see whole.

    Documents are contiguous, so that starts and ends never fall along a row.
    """
    last = tl.minimum(low + size, T) - 1
    begin = tl.load(starts + low) // BLOCK * BLOCK
    full_begin = tl.cdiv(tl.load(starts + last), BLOCK) * BLOCK
    if CAUSAL:
        end, full_end = last + 1, (low + 1) // BLOCK * BLOCK
    else:
        end, full_end = tl.load(ends + last), tl.load(ends + low) // BLOCK * BLOCK
    return begin, full_begin, tl.maximum(full_begin, full_end), end


@triton.jit
def forward_kernel(
    q,
    kv,
    k_rope,
    cos,
    sin,
    starts,
    ends,
    out,
    logsumexp,
    T,
    scale,
    H: tl.constexpr,
    HK: tl.constexpr,
    N: tl.constexpr,
    R: tl.constexpr,
    U: tl.constexpr,
    CAUSAL: tl.constexpr,
    BLOCK_M: tl.constexpr,
    BLOCK_N: tl.constexpr,
    BLOCK_K: tl.constexpr,
):
    """One tile of queries of one head; k_rope is turned, scale and logsumexp are of powers of 2."""
    tiles = tl.cdiv(T, BLOCK_M)
    # Causal tiles at the end of a row have most to do; they begin first.
    low = (tiles - 1 - tl.program_id(0) % tiles) * BLOCK_M
    head = tl.program_id(0) // tiles % H
    batch = (tl.program_id(0) // tiles // H).to(tl.int64)
    m = low + tl.arange(0, BLOCK_M)
    inside = (m < T)[:, None]
    rope = tl.arange(0, R)
    NP: tl.constexpr = min(N, BLOCK_K)
    UP: tl.constexpr = min(U, BLOCK_K)

    q += (batch * T * H + head) * (N + R)
    at = m[:, None] * (H * (N + R))
    q_nope = load_parts(q + at, inside, N, NP)
    q_rope = tl.load(q + at + N + rope, mask=inside, other=0.0)
    half = batch * T * (R // 2) + m[:, None] * (R // 2) + tl.arange(0, R // 2)
    c = tl.load(cos + half, mask=inside, other=0.0)
    s = tl.load(sin + half, mask=inside, other=0.0)
    q_rope = rotated(q_rope, c, s, BLOCK_M, R).to(q.dtype.element_ty)

    starts += batch * T
    ends += batch * T
    first = tl.load(starts + m, mask=m < T, other=T)
    stop = m + 1
    if not CAUSAL:
        stop = tl.load(ends + m, mask=m < T, other=0)
    begin, full_begin, full_end, end = key_bounds(starts, ends, T, low, BLOCK_M, BLOCK_N, CAUSAL)

    kv += (batch * T * HK + head // (H // HK)) * (N + U)
    k_rope += batch * T * R
    # Below every score, but finite: a row that has seen no key yet gives exp2(-inf) and no NaN.
    highest = tl.full((BLOCK_M,), -1e38, tl.float32)
    total = tl.zeros((BLOCK_M,), tl.float32)
    acc = zero_parts(BLOCK_M, U, UP)
    for phase in tl.static_range(3):
        # Blocks that all queries see whole lie between those that need a mask.
        if phase == 0:
            lower, upper = begin, tl.minimum(full_begin, end)
        elif phase == 1:
            lower, upper = full_begin, full_end
        else:
            lower, upper = full_end, end
        for block in range(lower, upper, BLOCK_N):
            n = block + tl.arange(0, BLOCK_N)
            key = kv + n[:, None] * (HK * (N + U))
            turned = k_rope + n[:, None] * R + rope
            if phase == 1:
                k, kr = load_parts(key, None, N, NP), tl.load(turned)
            else:
                there = (n < T)[:, None]
                k, kr = load_parts(key, there, N, NP), tl.load(turned, mask=there, other=0.0)
            score = dot_parts(q_nope, k, tl.zeros((BLOCK_M, BLOCK_N), tl.float32))
            score = tl.dot(q_rope, tl.trans(kr), score, input_precision="ieee")
            if phase != 1:
                seen = (n[None, :] >= first[:, None]) & (n[None, :] < stop[:, None])
                score = tl.where(seen, score, float("-inf"))
            higher = tl.maximum(highest, tl.max(score, 1) * scale)
            p = tl.exp2(score * scale - higher[:, None])
            fade = tl.exp2(highest - higher)
            total = total * fade + tl.sum(p, 1)
            acc = scale_parts(acc, fade[:, None])
            if phase == 1:
                v = load_parts(key + N, None, U, UP)
            else:
                v = load_parts(key + N, there, U, UP)
            acc = add_parts(acc, p.to(kv.dtype.element_ty), v)
            highest = higher

    at = (batch * T * H + head) * U + m[:, None] * (H * U)
    store_parts(out + at, acc, 1 / total[:, None], inside, UP)
    tl.store(logsumexp + (batch * H + head) * T + m, highest + tl.log2(total), mask=m < T)


def sizes(q: Tensor, kv: Tensor, k_rope: Tensor, causal: bool) -> dict[str, int | bool]:
    """The constants of the attention kernels."""
    rope = k_rope.shape[-1]
    nope = q.shape[-1] - rope
    return {
        "H": q.shape[2],
        "HK": kv.shape[2],
        "N": nope,
        "R": rope,
        "U": kv.shape[-1] - nope,
        "CAUSAL": causal,
    }


def forward(
    q: Tensor,
    kv: Tensor,
    k_rope: Tensor,
    cos: Tensor,
    sin: Tensor,
    starts: Tensor,
    ends: Tensor,
    scale: float,
    causal: bool,
) -> tuple[Tensor, Tensor]:
    """[B, T, H, U], and the log-sum-exp of the scores as a power of 2, [B, H, T] fp32."""
    constants = sizes(q, kv, k_rope, causal)
    batch, length, heads = q.shape[:3]
    out = q.new_empty((batch, length, heads, constants["U"]))
    logsumexp = q.new_empty((batch, heads, length), dtype=torch.float32)
    if not out.numel():
        return out, logsumexp
    arguments = {
        "q": q,
        "kv": kv,
        "k_rope": rotate_keys(k_rope, cos, sin),
        "cos": cos,
        "sin": sin,
        "starts": starts,
        "ends": ends,
        "out": out,
        "logsumexp": logsumexp,
        "T": length,
        "scale": scale * LOG2E,
    }
    launch(
        FORWARD,
        lambda c: (triton.cdiv(length, c["BLOCK_M"]) * batch * heads,),
        arguments,
        constants,
    )
    return out, logsumexp
