"""Triton kernels of the root-mean-square norm, alone and with the addition before it.

A program holds whole rows, so that each is read once and written once. In the backward a program
walks over rows with a stride and keeps its share of the weight's gradient in registers; the shares
are added up afterwards in a fixed order.
Bytes: forward x, out and 4 a row; backward x, both gradients and 4 a row; with the addition one
tensor more each way. Beside them the weight, and a row of fp32 a multiprocessor.
"""

import torch
import triton
import triton.language as tl
from torch import Tensor

from plm.kernels.rms_norm_configs import ADD_BACKWARD, ADD_FORWARD, BACKWARD, FORWARD
from plm.kernels.rows import padded, processors
from plm.kernels.tiles import Kernel, launch


@triton.jit
def forward(
    x,
    residual,
    weight,
    out,
    summed,
    inverse,
    rows,
    eps,
    D: tl.constexpr,
    WIDTH: tl.constexpr,
    ADD: tl.constexpr,
    BLOCK_SIZE: tl.constexpr,
):
    """Norm of x, or of x + residual rounded to `summed`; x, residual, out, summed [rows, D]."""
    ROWS: tl.constexpr = BLOCK_SIZE // WIDTH if BLOCK_SIZE > WIDTH else 1
    row = tl.program_id(0) * ROWS + tl.arange(0, ROWS)
    column = tl.arange(0, WIDTH)
    inside = (row < rows)[:, None] & (column < D)[None, :]
    place = row.to(tl.int64)[:, None] * D + column[None, :]
    values = tl.load(x + place, mask=inside, other=0.0).to(tl.float32)
    if ADD:
        values += tl.load(residual + place, mask=inside, other=0.0).to(tl.float32)
        # The norm is of what is handed on, not of what it was before rounding.
        rounded = values.to(summed.dtype.element_ty)
        tl.store(summed + place, rounded, mask=inside)
        values = rounded.to(tl.float32)
    factor = tl.load(weight + column, mask=column < D, other=0.0).to(tl.float32)
    scale = tl.rsqrt(tl.sum(values * values, 1) / D + eps)
    normed = values * scale[:, None] * factor[None, :]
    tl.store(out + place, normed.to(out.dtype.element_ty), mask=inside)
    tl.store(inverse + row, scale, mask=row < rows)


@triton.jit
def row_gradient(grad, values, factor, scale, D: tl.constexpr):
    """Gradient of the norm's rows, and their shares of the weight's; all fp32.

    Args:
        grad, values: [ROWS, WIDTH], 0 past D.
        factor: [WIDTH], the weight.
        scale: [ROWS], 1 / rms.
    """
    unit = values * scale[:, None]
    weighted = grad * factor[None, :]
    along = tl.sum(weighted * unit, 1) / D
    return (weighted - unit * along[:, None]) * scale[:, None], grad * unit


@triton.jit
def backward(
    grad,
    grad_summed,
    x,
    weight,
    inverse,
    grad_x,
    grad_residual,
    partial,
    rows,
    D: tl.constexpr,
    WIDTH: tl.constexpr,
    SUMMED: tl.constexpr,
    TWICE: tl.constexpr,
    BLOCK_SIZE: tl.constexpr,
    STAGES: tl.constexpr,
):
    """Gradients of x, plus grad_summed where SUMMED, and of the weight into partial [programs, D].

    TWICE writes the gradient of the residual too, which has another dtype than x then.
    """
    ROWS: tl.constexpr = BLOCK_SIZE // WIDTH if BLOCK_SIZE > WIDTH else 1
    column = tl.arange(0, WIDTH)
    factor = tl.load(weight + column, mask=column < D, other=0.0).to(tl.float32)
    total = tl.zeros((ROWS, WIDTH), tl.float32)
    step = tl.num_programs(0) * ROWS
    for start in tl.range(tl.program_id(0) * ROWS, rows, step, num_stages=STAGES):
        row = start + tl.arange(0, ROWS)
        inside = (row < rows)[:, None] & (column < D)[None, :]
        place = row.to(tl.int64)[:, None] * D + column[None, :]
        values = tl.load(x + place, mask=inside, other=0.0).to(tl.float32)
        incoming = tl.load(grad + place, mask=inside, other=0.0).to(tl.float32)
        scale = tl.load(inverse + row, mask=row < rows, other=0.0)
        slope, share = row_gradient(incoming, values, factor, scale, D)
        total += share
        if SUMMED:
            slope += tl.load(grad_summed + place, mask=inside, other=0.0).to(tl.float32)
        tl.store(grad_x + place, slope.to(grad_x.dtype.element_ty), mask=inside)
        if TWICE:
            kind = grad_residual.dtype.element_ty
            tl.store(grad_residual + place, slope.to(kind), mask=inside)
    sums = partial + tl.program_id(0) * D + column
    tl.store(sums, tl.sum(total, 0), mask=column < D)


def _forward(kernel: Kernel, x: Tensor, residual: Tensor, weight: Tensor, eps: float, into: tuple):
    size = x.shape[-1]
    out, summed, inverse = into
    launch(
        kernel,
        lambda c: (triton.cdiv(len(inverse), max(1, c["BLOCK_SIZE"] // c["WIDTH"])),),
        {
            "x": x,
            "residual": residual,
            "weight": weight,
            "out": out,
            "summed": summed,
            "inverse": inverse,
            "rows": len(inverse),
            "eps": eps,
        },
        {"D": size, "WIDTH": padded(size), "ADD": kernel is ADD_FORWARD},
    )


def rms_norm(
    x: Tensor, weight: Tensor, eps: float, out_dtype: torch.dtype
) -> tuple[Tensor, Tensor]:
    """Normed rows of x [..., D], contiguous, and 1 / rms of each, [rows, 1] fp32."""
    out = torch.empty_like(x, dtype=out_dtype)
    inverse = x.new_empty((x.numel() // x.shape[-1], 1), dtype=torch.float32)
    _forward(FORWARD, x, x, weight, eps, (out, out, inverse))
    return out, inverse


def add_rms_norm(
    x: Tensor, residual: Tensor, weight: Tensor, eps: float, out_dtype: torch.dtype | None
) -> tuple[Tensor, Tensor, Tensor]:
    """Norm of x + residual, the sum itself, and 1 / rms of each of its rows, [rows, 1] fp32."""
    kind = torch.promote_types(x.dtype, residual.dtype)
    out = torch.empty_like(x, dtype=out_dtype or kind)
    summed = torch.empty_like(x, dtype=kind)
    inverse = x.new_empty((x.numel() // x.shape[-1], 1), dtype=torch.float32)
    _forward(ADD_FORWARD, x, residual, weight, eps, (out, summed, inverse))
    return out, summed, inverse


def _backward(kernel: Kernel, tensors: dict[str, Tensor], constants: dict[str, bool]) -> Tensor:
    """Fills the gradients of the rows; returns that of the weight."""
    x, weight = tensors["x"], tensors["weight"]
    size, rows = x.shape[-1], len(tensors["inverse"])
    programs = min(rows, processors(x.device))
    partial = x.new_empty((programs, size), dtype=torch.float32)
    launch(
        kernel,
        lambda c: (programs,),
        {**tensors, "partial": partial, "rows": rows},
        {"D": size, "WIDTH": padded(size), **constants},
    )
    return partial.sum(0).to(weight.dtype)


def rms_norm_backward(
    grad: Tensor, x: Tensor, weight: Tensor, inverse: Tensor
) -> tuple[Tensor, Tensor]:
    """Gradients of x and weight; inverse as the forward gave it."""
    grad, grad_x = grad.contiguous(), torch.empty_like(x)
    tensors = {
        "grad": grad,
        "grad_summed": grad,
        "x": x,
        "weight": weight,
        "inverse": inverse,
        "grad_x": grad_x,
        "grad_residual": grad_x,
    }
    return grad_x, _backward(BACKWARD, tensors, {"SUMMED": False, "TWICE": False})


def add_rms_norm_backward(
    grad: Tensor,
    grad_summed: Tensor | None,
    summed: Tensor,
    weight: Tensor,
    inverse: Tensor,
    kinds: tuple[torch.dtype, torch.dtype],
) -> tuple[Tensor, Tensor, Tensor]:
    """Gradients of x, residual (empty where x's serves) and weight.

    Args:
        grad, grad_summed: of the norm and of the sum.
        kinds: dtypes of x and residual.
    """
    twice = kinds[0] != kinds[1]
    grad_x = torch.empty_like(summed, dtype=kinds[0])
    grad_residual = torch.empty_like(summed, dtype=kinds[1]) if twice else summed.new_empty(0)
    grad = grad.contiguous()
    tensors = {
        "grad": grad,
        "grad_summed": grad if grad_summed is None else grad_summed.contiguous(),
        "x": summed,
        "weight": weight,
        "inverse": inverse,
        "grad_x": grad_x,
        "grad_residual": grad_residual if twice else grad_x,
    }
    constants = {"SUMMED": grad_summed is not None, "TWICE": twice}
    return grad_x, grad_residual, _backward(ADD_BACKWARD, tensors, constants)
