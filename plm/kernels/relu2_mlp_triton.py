"""Triton kernels of the feed-forward with a squared ReLU, and what launches them.

    up      r = relu(x @ up.T)
    down    y = r^2 @ down.T         r's tile is squared on its way to the matrix unit
    slope   s = 2 * r * (dy @ down)  the gradient before the ReLU; r's tile is read once, at the end
    weight  d_down = dy.T @ r^2      made as its transpose, so that the squared operand is the left
                                     one, which the matrix unit of sm_90 takes from registers

r^2 is rounded to the dtype of r, as if it had been written. The other two products of the backward,
s @ up and s.T @ x, are plain and stay with torch. Programs that share rows of the left operand run
near each other, so that what both operands share is read from the L2 cache.

Skipping, off unless asked for, leaves out the squares of r that are all zero (docs/sparsity.md).
`up` writes a flag for each, and of these `worth` makes, for each block of rows of the left operand,
the list of blocks along the sum that are worth a visit. The loop is as long as the list and has no
branch in it, so that it stays pipelined.
"""

from typing import Any

import torch
import triton
import triton.language as tl
from torch import Tensor

from plm.kernels import relu2_mlp_configs as configs
from plm.kernels.tiles import Kernel, interpreting, launch


@triton.jit
def _place(M, N: tl.constexpr, BLOCK_M: tl.constexpr, BLOCK_N: tl.constexpr, GROUP: tl.constexpr):
    """Which tile of [M, N] this program makes: GROUP blocks of rows, then the next columns."""
    program = tl.program_id(0)
    high, wide = tl.cdiv(M, BLOCK_M), tl.cdiv(N, BLOCK_N)
    first = program // (GROUP * wide) * GROUP
    height = min(high - first, GROUP)
    inside = program % (GROUP * wide)
    return first + inside % height, inside // height


@triton.jit
def rows_product(
    a,
    b,
    r,
    out,
    flags,
    order,
    counts,
    M,
    N: tl.constexpr,
    K: tl.constexpr,
    TURNED: tl.constexpr,
    SQUARE: tl.constexpr,
    RELU: tl.constexpr,
    SLOPE: tl.constexpr,
    SKIP: tl.constexpr,
    EDGE: tl.constexpr,
    LARGE: tl.constexpr,
    BLOCK_M: tl.constexpr,
    BLOCK_N: tl.constexpr,
    BLOCK_K: tl.constexpr,
    BLOCK_GROUP: tl.constexpr,
):
    """out [M, N] = a [M, K] @ b [N, K].T, or @ b [K, N] where TURNED.

    SQUARE: a's elements. RELU: of the result. SLOPE: the result times 2 and r [M, N].
    SKIP, where RELU: writes flags of out's squares [M / EDGE, N / EDGE]; where SQUARE: visits the
    first counts[i] blocks of order [M blocks, K blocks]; where SLOPE: calculates only tiles with a
    flag that is set. LARGE only tells the autotuner many rows from few.
    """
    block_m, block_n = _place(M, N, BLOCK_M, BLOCK_N, BLOCK_GROUP)
    # int64: tokens of a batch times the feed-forward's width may pass 2^31.
    m = block_m.to(tl.int64) * BLOCK_M + tl.arange(0, BLOCK_M)
    n, k = block_n * BLOCK_N + tl.arange(0, BLOCK_N), tl.arange(0, BLOCK_K)
    in_m, in_n = (m < M)[:, None], (n < N)[None, :] | (N % BLOCK_N == 0)
    a_at = a + m[:, None] * K + k[None, :]
    b_at = b + (k[:, None] * N + n[None, :] if TURNED else n[None, :] * K + k[:, None])
    steps = tl.cdiv(K, BLOCK_K)
    if SKIP and not SQUARE:
        high: tl.constexpr = BLOCK_M // EDGE
        wide: tl.constexpr = BLOCK_N // EDGE
        i = (block_m * high + tl.arange(0, high))[:, None]
        j = (block_n * wide + tl.arange(0, wide))[None, :]
        flag, flagged = i * tl.cdiv(N, EDGE) + j, (i < tl.cdiv(M, EDGE)) & (j < tl.cdiv(N, EDGE))
    if SKIP and SQUARE:
        order += block_m * steps
        steps = tl.load(counts + block_m)
    if SKIP and SLOPE:
        steps *= tl.max(tl.load(flags + flag, mask=flagged, other=0).to(tl.int32))
    total = tl.zeros((BLOCK_M, BLOCK_N), tl.float32)
    for step in range(steps):
        start = step * BLOCK_K
        if SKIP and SQUARE:
            start = tl.load(order + step) * BLOCK_K
        in_k = (k < K - start) | (K % BLOCK_K == 0)
        left = tl.load(a_at + start, mask=in_m & in_k[None, :], other=0.0)
        right_at = b_at + start * (N if TURNED else 1)
        right = tl.load(right_at, mask=in_k[:, None] & in_n, other=0.0)
        if SQUARE:
            left = left * left
        total = tl.dot(left, right, total, input_precision="ieee")
    place, kept = m[:, None] * N + n[None, :], in_m & in_n
    if RELU:
        # A NaN must stay one, as in torch.
        total = tl.maximum(total, 0.0, propagate_nan=tl.PropagateNan.ALL)
    if SLOPE:
        total *= 2.0 * tl.load(r + place, mask=kept, other=0.0).to(tl.float32)
    result = total.to(out.dtype.element_ty)
    if SKIP and RELU:
        # Of what is stored: a small number may have become zero. A NaN is none.
        some = (result.to(tl.float32) != 0.0).to(tl.int32)
        some = tl.max(tl.max(tl.reshape(some, (high, EDGE, wide, EDGE)), 3), 1)
        tl.store(flags + flag, some.to(tl.int8), mask=flagged)
    tl.store(out + place, result, mask=kept)


@triton.jit
def weight_product(
    r,
    grad,
    out,
    order,
    counts,
    M,
    D: tl.constexpr,
    F: tl.constexpr,
    SKIP: tl.constexpr,
    LARGE: tl.constexpr,
    BLOCK_M: tl.constexpr,
    BLOCK_N: tl.constexpr,
    BLOCK_K: tl.constexpr,
    BLOCK_GROUP: tl.constexpr,
):
    """out [D, F] = grad [M, D].T @ r^2 [M, F], its tiles [BLOCK_N of D, BLOCK_M of F].

    SKIP visits the first counts[i] blocks of tokens of order [F blocks, M blocks].
    """
    block_f, block_d = _place(F, D, BLOCK_M, BLOCK_N, BLOCK_GROUP)
    f, d = block_f * BLOCK_M + tl.arange(0, BLOCK_M), block_d * BLOCK_N + tl.arange(0, BLOCK_N)
    in_f, in_d = (f < F) | (F % BLOCK_M == 0), (d < D) | (D % BLOCK_N == 0)
    k = tl.arange(0, BLOCK_K)
    r_at, grad_at = r + k[None, :] * F + f[:, None], grad + k[:, None] * D + d[None, :]
    steps = tl.cdiv(M, BLOCK_K)
    if SKIP:
        order += block_f * steps
        steps = tl.load(counts + block_f)
    total = tl.zeros((BLOCK_M, BLOCK_N), tl.float32)
    for step in range(steps):
        start = step * BLOCK_K
        if SKIP:
            start = tl.load(order + step) * BLOCK_K
        in_k, far = k < M - start, start.to(tl.int64)
        left = tl.load(r_at + far * F, mask=in_f[:, None] & in_k[None, :], other=0.0)
        right = tl.load(grad_at + far * D, mask=in_k[:, None] & in_d[None, :], other=0.0)
        total = tl.dot(left * left, right, total, input_precision="ieee")
    place = d[None, :] * F + f[:, None]
    tl.store(out + place, total.to(out.dtype.element_ty), mask=in_f[:, None] & in_d[None, :])


def _run(kernel: Kernel, shape: tuple[int, int], arguments: dict[str, Any], sizes: dict) -> None:
    """Launch over the tiles of an output of this shape; pointers that are not given are None."""
    high, wide = shape

    def grid(c: Any) -> tuple[int]:
        return (triton.cdiv(high, c["BLOCK_M"]) * triton.cdiv(wide, c["BLOCK_N"]),)

    large = arguments["M"] >= configs.MANY_ROWS
    absent = {name: None for name in configs.POINTERS[kernel.source] if name not in arguments}
    constants = {**configs.CONSTANTS[kernel.name], **sizes, "LARGE": large}
    if kernel.source == configs.ROWS:
        constants["EDGE"] = zero_edge()
    launch(kernel, grid, {**absent, **arguments}, constants)


def relu_up(x: Tensor, up: Tensor, flags: Tensor | None = None) -> Tensor:
    """relu(x @ up.T) [M, F]; fills flags, if given, which are of `new_flags`."""
    (rows, size), wide = x.shape, len(up)
    r = x.new_empty(rows, wide)
    arguments = {"a": x, "b": up, "out": r, "M": rows}
    sizes = {"N": wide, "K": size}
    if flags is None:
        _run(configs.UP, (rows, wide), arguments, sizes)
    else:
        _run(configs.UP_FLAGS, (rows, wide), {**arguments, "flags": flags}, sizes)
    return r


def square_down(r: Tensor, down: Tensor, flags: Tensor | None = None) -> Tensor:
    """r^2 @ down.T [M, D]; with the flags of r, its zeros are skipped."""
    (rows, wide), size = r.shape, len(down)
    y = r.new_empty(rows, size)
    arguments = {"a": r, "b": down, "out": y, "M": rows}
    sizes = {"N": size, "K": wide}
    if flags is None:
        _run(configs.DOWN, (rows, size), arguments, sizes)
    else:
        _run(configs.DOWN_SKIP, (rows, size), arguments | worth(flags), sizes)
    return y


def slope(grad: Tensor, down: Tensor, r: Tensor, flags: Tensor | None = None) -> Tensor:
    """2 * r * (grad @ down) [M, F]; with the flags of r, its zeros are skipped."""
    (rows, wide), size = r.shape, len(down)
    s = torch.empty_like(r)
    arguments = {"a": grad, "b": down, "r": r, "out": s, "M": rows}
    sizes = {"N": wide, "K": size}
    if flags is None:
        _run(configs.SLOPE, (rows, wide), arguments, sizes)
    else:
        _run(configs.SLOPE_SKIP, (rows, wide), {**arguments, "flags": flags}, sizes)
    return s


def square_weight(grad: Tensor, r: Tensor, flags: Tensor | None = None) -> Tensor:
    """grad.T @ r^2 [D, F], added up in fp32; with the flags of r, its zeros are skipped."""
    (rows, wide), size = r.shape, grad.shape[1]
    out = r.new_empty(size, wide)
    arguments = {"r": r, "grad": grad, "out": out, "M": rows}
    sizes = {"D": size, "F": wide}
    if flags is None:
        _run(configs.WEIGHT, (wide, size), arguments, sizes)
    else:
        # The sum runs over tokens here, so the lists are of blocks of tokens.
        listed = worth(flags.t().contiguous())
        _run(configs.WEIGHT_SKIP, (wide, size), arguments | listed, sizes)
    return out


def zero_edge() -> int:
    """Edge of the squares of r that are looked at for zeros."""
    return configs.TRIAL_EDGE if interpreting() else configs.ZERO_EDGE


def new_flags(rows: int, wide: int, device: torch.device) -> Tensor:
    """Room for a flag a square of r [M, F]: whether it is not all zero."""
    edge = zero_edge()
    shape = triton.cdiv(rows, edge), triton.cdiv(wide, edge)
    return torch.empty(shape, dtype=torch.int8, device=device)


def worth(flags: Tensor) -> dict[str, Tensor]:
    """What is worth a visit: of each row the columns that are set, in front and in order.

    Args:
        flags: [I, J] int8.
    Returns:
        "order" [I, J] int32, of which the rest is of no meaning, and "counts" [I] int32. Nothing
        waits for the GPU.
    """
    order = torch.argsort(flags, dim=1, descending=True, stable=True)
    return {"order": order.to(torch.int32), "counts": flags.sum(1, dtype=torch.int32)}
