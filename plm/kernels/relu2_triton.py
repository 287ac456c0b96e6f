"""Triton kernels of the squared ReLU.

Bytes: forward x and out, backward the incoming gradient, what is kept, and x's gradient. What is
kept is the output itself, which the next projection keeps anyway: where its dtype has fp32's range
of exponents, the root of the rounded square is relu(x) again, bit for bit. fp16's squares vanish
below 2^-12, so that there x is kept.
"""

import torch
import triton
import triton.language as tl
from torch import Tensor

from plm.kernels.relu2_configs import BACKWARD, FORWARD
from plm.kernels.tiles import launch


@triton.jit
def forward(x, out, count, BLOCK_SIZE: tl.constexpr):
    """out = relu(x)^2, [count] each."""
    place = tl.program_id(0).to(tl.int64) * BLOCK_SIZE + tl.arange(0, BLOCK_SIZE)
    values = tl.load(x + place, mask=place < count, other=0.0).to(tl.float32)
    # Not the larger of x and 0, which a GPU gives as 0 for NaN.
    positive = tl.where(values < 0, 0.0, values)
    tl.store(out + place, (positive * positive).to(out.dtype.element_ty), mask=place < count)


@triton.jit
def backward(grad, kept, grad_x, count, SQUARED: tl.constexpr, BLOCK_SIZE: tl.constexpr):
    """grad_x = 2 relu(x) grad; kept is relu(x)^2 where SQUARED, or else x."""
    place = tl.program_id(0).to(tl.int64) * BLOCK_SIZE + tl.arange(0, BLOCK_SIZE)
    values = tl.load(kept + place, mask=place < count, other=0.0).to(tl.float32)
    incoming = tl.load(grad + place, mask=place < count, other=0.0).to(tl.float32)
    if SQUARED:
        positive = tl.sqrt_rn(values).to(kept.dtype.element_ty).to(tl.float32)
    else:
        positive = tl.where(values < 0, 0.0, values)
    slope = 2 * positive * incoming
    tl.store(grad_x + place, slope.to(grad_x.dtype.element_ty), mask=place < count)


def _grid(count: int):
    return lambda c: (triton.cdiv(count, c["BLOCK_SIZE"]),)


def relu2(x: Tensor) -> Tensor:
    """relu(x)^2 of a contiguous x."""
    out, count = torch.empty_like(x), x.numel()
    launch(FORWARD, _grid(count), {"x": x, "out": out, "count": count}, {})
    return out


def relu2_backward(grad: Tensor, kept: Tensor, squared: bool) -> Tensor:
    """2 relu(x) grad; kept is the output where squared, or else x."""
    grad_x, count = torch.empty_like(kept), kept.numel()
    arguments = {"grad": grad.contiguous(), "kept": kept, "grad_x": grad_x, "count": count}
    launch(BACKWARD, _grid(count), arguments, {"SQUARED": squared})
    return grad_x
