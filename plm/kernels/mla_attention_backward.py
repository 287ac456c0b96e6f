"""Triton kernels of `mla_attention`'s backward: no atomics, sums in a fixed order."""

import torch
import triton
import triton.language as tl
from torch import Tensor

from plm.kernels.mla_attention_configs import KEY_GRADIENT, QUERY_GRADIENT
from plm.kernels.mla_attention_forward import (
    LOG2E,
    add_parts,
    dot_parts,
    key_bounds,
    load_parts,
    sizes,
    store_parts,
    zero_parts,
)
from plm.kernels.mla_attention_rows import prepare, rotate_back, rotate_keys, rotated
from plm.kernels.tiles import launch


@triton.jit
def query_gradient_kernel(
    q,
    q_rope,
    kv,
    k_rope,
    cos,
    sin,
    starts,
    ends,
    grad,
    logsumexp,
    delta,
    grad_q,
    T,
    scale,
    power,
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
    """Gradient of one tile of queries of one head; q_rope and k_rope are turned.

    power is scale for powers of 2.
    """
    tiles = tl.cdiv(T, BLOCK_M)
    low = (tiles - 1 - tl.program_id(0) % tiles) * BLOCK_M
    head = tl.program_id(0) // tiles % H
    batch = (tl.program_id(0) // tiles // H).to(tl.int64)
    m = low + tl.arange(0, BLOCK_M)
    inside = (m < T)[:, None]
    rope = tl.arange(0, R)
    NP: tl.constexpr = min(N, BLOCK_K)
    UP: tl.constexpr = min(U, BLOCK_K)

    row = batch * T * H + head
    at = m[:, None] * H
    qn = load_parts(q + row * (N + R) + at * (N + R), inside, N, NP)
    qr = tl.load(q_rope + row * R + at * R + rope, mask=inside, other=0.0)
    do = load_parts(grad + row * U + at * U, inside, U, UP)
    # A row that is not there has probabilities exp2(-inf).
    scalars = (batch * H + head) * T
    lse = tl.load(logsumexp + scalars + m, mask=m < T, other=float("inf"))
    di = tl.load(delta + scalars + m, mask=m < T, other=0.0)

    starts += batch * T
    ends += batch * T
    first = tl.load(starts + m, mask=m < T, other=T)
    stop = m + 1
    if not CAUSAL:
        stop = tl.load(ends + m, mask=m < T, other=0)
    begin, full_begin, full_end, end = key_bounds(starts, ends, T, low, BLOCK_M, BLOCK_N, CAUSAL)

    kv += (batch * T * HK + head // (H // HK)) * (N + U)
    k_rope += batch * T * R
    acc_nope = zero_parts(BLOCK_M, N, NP)
    acc_rope = tl.zeros((BLOCK_M, R), tl.float32)
    for phase in tl.static_range(3):
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
                v = load_parts(key + N, None, U, UP)
            else:
                there = (n < T)[:, None]
                k, kr = load_parts(key, there, N, NP), tl.load(turned, mask=there, other=0.0)
                v = load_parts(key + N, there, U, UP)
            score = dot_parts(qn, k, tl.zeros((BLOCK_M, BLOCK_N), tl.float32))
            score = tl.dot(qr, tl.trans(kr), score, input_precision="ieee")
            p = tl.exp2(score * power - lse[:, None])
            if phase != 1:
                seen = (n[None, :] >= first[:, None]) & (n[None, :] < stop[:, None])
                p = tl.where(seen, p, 0.0)
            dp = dot_parts(do, v, tl.zeros((BLOCK_M, BLOCK_N), tl.float32))
            ds = (p * (dp - di[:, None])).to(kr.dtype)
            acc_nope = add_parts(acc_nope, ds, k)
            acc_rope = tl.dot(ds, kr, acc_rope, input_precision="ieee")

    angle = batch * T * (R // 2) + m[:, None] * (R // 2) + tl.arange(0, R // 2)
    c = tl.load(cos + angle, mask=inside, other=0.0)
    s = tl.load(sin + angle, mask=inside, other=0.0)
    acc_rope = rotated(acc_rope * scale, c, -s, BLOCK_M, R)
    grad_q += row * (N + R) + at * (N + R)
    store_parts(grad_q, acc_nope, scale, inside, NP)
    tl.store(grad_q + N + rope, acc_rope.to(grad_q.dtype.element_ty), mask=inside)


@triton.jit
def key_gradient_kernel(
    q,
    q_rope,
    kv,
    k_rope,
    starts,
    ends,
    grad,
    logsumexp,
    delta,
    grad_kv,
    parts,
    T,
    B,
    scale,
    power,
    H: tl.constexpr,
    HK: tl.constexpr,
    N: tl.constexpr,
    R: tl.constexpr,
    U: tl.constexpr,
    CAUSAL: tl.constexpr,
    BLOCK_N: tl.constexpr,
    BLOCK_M: tl.constexpr,
    BLOCK_K: tl.constexpr,
):
    """Gradients of one tile of keys of one head, from all their queries.

    The turned shared key's go into parts, [HK, B, T, R]: carried on over several heads of keys they
    would cost the registers that make the difference between no spill and many.
    """
    tiles = tl.cdiv(T, BLOCK_N)
    low = tl.program_id(0) % tiles * BLOCK_N
    kv_head = tl.program_id(0) // tiles % HK
    batch = (tl.program_id(0) // tiles // HK).to(tl.int64)
    n = low + tl.arange(0, BLOCK_N)
    inside = (n < T)[:, None]
    rope = tl.arange(0, R)
    NP: tl.constexpr = min(N, BLOCK_K)
    UP: tl.constexpr = min(U, BLOCK_K)
    starts += batch * T
    ends += batch * T
    last = tl.minimum(low + BLOCK_N, T) - 1
    if CAUSAL:
        begin = low
        first = n
    else:
        begin = tl.load(starts + low)
        first = tl.load(starts + n, mask=n < T, other=T)
    begin = begin // BLOCK_M * BLOCK_M
    end = tl.load(ends + last)
    stop = tl.load(ends + n, mask=n < T, other=0)

    kr = tl.load(k_rope + batch * T * R + n[:, None] * R + rope, mask=inside, other=0.0)
    acc_rope = tl.zeros((BLOCK_N, R), tl.float32)
    at = (batch * T * HK + kv_head) * (N + U) + n[:, None] * (HK * (N + U))
    k = load_parts(kv + at, inside, N, NP)
    v = load_parts(kv + at + N, inside, U, UP)
    acc_k, acc_v = zero_parts(BLOCK_N, N, NP), zero_parts(BLOCK_N, U, UP)
    for head in range(kv_head * (H // HK), (kv_head + 1) * (H // HK)):
        row = batch * T * H + head
        scalars = (batch * H + head) * T
        for block in range(begin, end, BLOCK_M):
            m = block + tl.arange(0, BLOCK_M)
            there = (m < T)[:, None]
            query = m[:, None] * H
            qn = load_parts(q + row * (N + R) + query * (N + R), there, N, NP)
            qr = tl.load(q_rope + row * R + query * R + rope, mask=there, other=0.0)
            lse = tl.load(logsumexp + scalars + m, mask=m < T, other=float("inf"))
            score = dot_parts(k, qn, tl.zeros((BLOCK_N, BLOCK_M), tl.float32))
            score = tl.dot(kr, tl.trans(qr), score, input_precision="ieee")
            p = tl.exp2(score * power - lse[None, :])
            seen = (m[None, :] >= first[:, None]) & (m[None, :] < stop[:, None])
            p = tl.where(seen, p, 0.0)
            do = load_parts(grad + row * U + query * U, there, U, UP)
            acc_v = add_parts(acc_v, p.to(qr.dtype), do)
            di = tl.load(delta + scalars + m, mask=m < T, other=0.0)
            dp = dot_parts(v, do, tl.zeros((BLOCK_N, BLOCK_M), tl.float32))
            ds = (p * (dp - di[None, :])).to(qr.dtype)
            acc_k = add_parts(acc_k, ds, qn)
            acc_rope = tl.dot(ds, qr, acc_rope, input_precision="ieee")
    store_parts(grad_kv + at, acc_k, scale, inside, NP)
    store_parts(grad_kv + at + N, acc_v, 1.0, inside, UP)
    at = (kv_head * B + batch) * T * R + n[:, None] * R + rope
    tl.store(parts + at, acc_rope * scale, mask=inside)


def backward(
    grad: Tensor,
    q: Tensor,
    kv: Tensor,
    k_rope: Tensor,
    cos: Tensor,
    sin: Tensor,
    starts: Tensor,
    ends: Tensor,
    out: Tensor,
    logsumexp: Tensor,
    scale: float,
    causal: bool,
) -> tuple[Tensor, Tensor, Tensor]:
    """Gradients of q, kv and k_rope, contiguous, in their dtypes."""
    constants = sizes(q, kv, k_rope, causal)
    batch, length, heads = q.shape[:3]
    kv_heads = kv.shape[2]
    grad_q, grad_kv = q.new_empty(q.shape), kv.new_empty(kv.shape)
    if not q.numel():
        return grad_q, grad_kv, k_rope.new_empty(k_rope.shape)
    delta, q_rope = prepare(q, cos, sin, out, grad, constants["R"])
    common = {
        "q": q,
        "q_rope": q_rope,
        "kv": kv,
        "k_rope": rotate_keys(k_rope, cos, sin),
        "starts": starts,
        "ends": ends,
        "grad": grad,
        "logsumexp": logsumexp,
        "delta": delta,
        "T": length,
        "scale": scale,
        "power": scale * LOG2E,
    }
    launch(
        QUERY_GRADIENT,
        lambda c: (triton.cdiv(length, c["BLOCK_M"]) * batch * heads,),
        {**common, "cos": cos, "sin": sin, "grad_q": grad_q},
        constants,
    )
    parts = q.new_empty((kv_heads, *k_rope.shape), dtype=torch.float32)
    launch(
        KEY_GRADIENT,
        lambda c: (triton.cdiv(length, c["BLOCK_N"]) * batch * kv_heads,),
        {**common, "grad_kv": grad_kv, "parts": parts, "B": batch},
        constants,
    )
    return grad_q, grad_kv, rotate_back(parts, cos, sin, k_rope.dtype)
