"""Triton kernels of the latent's norm, fused with the split and the rotation of the shared key.

Bytes: forward kv_a, both outputs and 4 a row; backward the latent's part of kv_a, both gradients,
the whole gradient of kv_a and 4 a row. Beside them the weight, the tables and a row of fp32 a
multiprocessor.
"""

import torch
import triton
import triton.language as tl
from torch import Tensor

from plm.kernels.latent_norm_configs import BACKWARD, FORWARD
from plm.kernels.rms_norm_triton import row_gradient
from plm.kernels.rope_triton import turned
from plm.kernels.rows import padded, processors
from plm.kernels.tiles import launch


@triton.jit
def turned_rows(x, cos, sin, long, there, STRIDE: tl.constexpr, R: tl.constexpr,
                WIDTH_R: tl.constexpr, TURN: tl.constexpr, INVERSE: tl.constexpr):  # fmt: skip
    """Rows `long` [ROWS, 1] of x, which lie STRIDE apart, in fp32; turned where TURN."""
    column = tl.arange(0, WIDTH_R)[None, :]
    values = tl.load(x + long * STRIDE + column, mask=there & (column < R), other=0.0)
    values = values.to(tl.float32)
    if TURN:
        pair = tl.arange(0, WIDTH_R // 2)[None, :]
        place, known = long * (R // 2) + pair, there & (pair < R // 2)
        cosine = tl.load(cos + place, mask=known, other=0.0).to(tl.float32)
        sine = tl.load(sin + place, mask=known, other=0.0).to(tl.float32)
        values = turned(values, cosine, sine, INVERSE)
    return values


@triton.jit
def forward(
    kv_a,
    weight,
    cos,
    sin,
    latent,
    k_rope,
    inverse,
    rows,
    eps,
    C: tl.constexpr,
    R: tl.constexpr,
    WIDTH: tl.constexpr,
    WIDTH_R: tl.constexpr,
    TURN: tl.constexpr,
    BLOCK_SIZE: tl.constexpr,
):
    """Norm of the first C columns of kv_a [rows, C + R], the others turned or copied."""
    ROWS: tl.constexpr = BLOCK_SIZE // WIDTH if BLOCK_SIZE > WIDTH else 1
    row = tl.program_id(0) * ROWS + tl.arange(0, ROWS)
    long, there = row.to(tl.int64)[:, None], (row < rows)[:, None]
    column = tl.arange(0, WIDTH)
    inside = there & (column < C)[None, :]
    values = tl.load(kv_a + long * (C + R) + column[None, :], mask=inside, other=0.0)
    values = values.to(tl.float32)
    factor = tl.load(weight + column, mask=column < C, other=0.0).to(tl.float32)
    scale = tl.rsqrt(tl.sum(values * values, 1) / C + eps)
    normed = values * scale[:, None] * factor[None, :]
    tl.store(latent + long * C + column[None, :], normed.to(latent.dtype.element_ty), mask=inside)
    tl.store(inverse + row, scale, mask=row < rows)
    key = turned_rows(kv_a + C, cos, sin, long, there, C + R, R, WIDTH_R, TURN, False)
    place = tl.arange(0, WIDTH_R)[None, :]
    kind = k_rope.dtype.element_ty
    tl.store(k_rope + long * R + place, key.to(kind), mask=there & (place < R))


@triton.jit
def backward(
    grad_latent,
    grad_rope,
    kv_a,
    weight,
    cos,
    sin,
    inverse,
    grad_kv,
    partial,
    rows,
    C: tl.constexpr,
    R: tl.constexpr,
    WIDTH: tl.constexpr,
    WIDTH_R: tl.constexpr,
    TURN: tl.constexpr,
    BLOCK_SIZE: tl.constexpr,
    STAGES: tl.constexpr,
):
    """Gradient of kv_a, whole, and of the weight into partial [programs, C]."""
    ROWS: tl.constexpr = BLOCK_SIZE // WIDTH if BLOCK_SIZE > WIDTH else 1
    column, place = tl.arange(0, WIDTH), tl.arange(0, WIDTH_R)[None, :]
    factor = tl.load(weight + column, mask=column < C, other=0.0).to(tl.float32)
    total = tl.zeros((ROWS, WIDTH), tl.float32)
    step = tl.num_programs(0) * ROWS
    kind = grad_kv.dtype.element_ty
    for start in tl.range(tl.program_id(0) * ROWS, rows, step, num_stages=STAGES):
        row = start + tl.arange(0, ROWS)
        long, there = row.to(tl.int64)[:, None], (row < rows)[:, None]
        inside = there & (column < C)[None, :]
        whole = long * (C + R) + column[None, :]
        values = tl.load(kv_a + whole, mask=inside, other=0.0).to(tl.float32)
        incoming = tl.load(grad_latent + long * C + column[None, :], mask=inside, other=0.0)
        scale = tl.load(inverse + row, mask=row < rows, other=0.0)
        slope, share = row_gradient(incoming.to(tl.float32), values, factor, scale, C)
        total += share
        tl.store(grad_kv + whole, slope.to(kind), mask=inside)
        key = turned_rows(grad_rope, cos, sin, long, there, R, R, WIDTH_R, TURN, True)
        tl.store(grad_kv + long * (C + R) + C + place, key.to(kind), mask=there & (place < R))
    sums = partial + tl.program_id(0) * C + column
    tl.store(sums, tl.sum(total, 0), mask=column < C)


def _constants(rank: int, rope: int, rotate: bool) -> dict[str, int | bool]:
    return {
        "C": rank,
        "R": rope,
        "WIDTH": padded(rank),
        "WIDTH_R": padded(rope),
        "TURN": rotate,
    }


def latent_norm(
    kv_a: Tensor, weight: Tensor, cos: Tensor, sin: Tensor, eps: float, rank: int, rotate: bool
) -> tuple[Tensor, Tensor, Tensor]:
    """Latent [..., C], key [..., R] and 1 / rms of each row, [rows, 1] fp32; kv_a contiguous."""
    *shape, both = kv_a.shape
    rows = kv_a.numel() // both
    latent = kv_a.new_empty((*shape, rank))
    k_rope = kv_a.new_empty((*shape, both - rank))
    inverse = kv_a.new_empty((rows, 1), dtype=torch.float32)
    launch(
        FORWARD,
        lambda c: (triton.cdiv(rows, max(1, c["BLOCK_SIZE"] // c["WIDTH"])),),
        {
            "kv_a": kv_a,
            "weight": weight,
            "cos": cos,
            "sin": sin,
            "latent": latent,
            "k_rope": k_rope,
            "inverse": inverse,
            "rows": rows,
            "eps": eps,
        },
        _constants(rank, both - rank, rotate),
    )
    return latent, k_rope, inverse


def latent_norm_backward(
    grad_latent: Tensor,
    grad_rope: Tensor,
    kv_a: Tensor,
    weight: Tensor,
    tables: tuple[Tensor, Tensor],
    inverse: Tensor,
    rotate: bool,
) -> tuple[Tensor, Tensor]:
    """Gradients of kv_a and weight; tables are cos and sin."""
    rows, rank = len(inverse), len(weight)
    programs = min(rows, processors(kv_a.device))
    grad_kv = torch.empty_like(kv_a)
    partial = kv_a.new_empty((programs, rank), dtype=torch.float32)
    launch(
        BACKWARD,
        lambda c: (programs,),
        {
            "grad_latent": grad_latent.contiguous(),
            "grad_rope": grad_rope.contiguous(),
            "kv_a": kv_a,
            "weight": weight,
            "cos": tables[0],
            "sin": tables[1],
            "inverse": inverse,
            "grad_kv": grad_kv,
            "partial": partial,
            "rows": rows,
        },
        _constants(rank, kv_a.shape[-1] - rank, rotate),
    )
    return grad_kv, partial.sum(0).to(weight.dtype)
