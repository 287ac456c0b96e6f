"""Rotary position embedding on interleaved pairs (2i, 2i + 1), in one pass.

Paper: Su et al., RoFormer (arXiv:2104.09864), section 3.2
"""

import torch
from torch import Tensor

from plm.errors import ConfigError
from plm.kernels.dispatch import use_triton
from plm.kernels.reference.rope import rope as plain


@torch.library.custom_op("plm::rope", mutates_args=())
def _rope(x: Tensor, cos: Tensor, sin: Tensor, triton: bool = True) -> Tensor:
    if not triton:
        return _complex(x, cos, sin)
    from plm.kernels import rope_triton

    return rope_triton.turn(x, cos, sin, inverse=False)


@torch.library.custom_op("plm::rope_backward", mutates_args=())
def _rope_backward(grad: Tensor, cos: Tensor, sin: Tensor, triton: bool) -> Tensor:
    if not triton:
        return _complex(grad, cos, -sin)
    from plm.kernels import rope_triton

    return rope_triton.turn(grad.contiguous(), cos, sin, inverse=True)


@_rope.register_fake
@_rope_backward.register_fake
def _(x: Tensor, cos: Tensor, sin: Tensor, triton: bool = True) -> Tensor:
    return torch.empty(x.shape, dtype=x.dtype, device=x.device)


def _keep(ctx, inputs, output) -> None:
    ctx.triton = inputs[3]
    ctx.save_for_backward(*inputs[1:3])


def _backward(ctx, grad: Tensor) -> tuple:
    # The tables come from positions: no gradient of theirs is made, and one asked for is refused.
    return _rope_backward(grad, *ctx.saved_tensors, ctx.triton), None, None, None


_rope.register_autograd(_backward, setup_context=_keep)


def tables_problem(of: str, shape: torch.Size, size: int, cos: Tensor, sin: Tensor) -> str | None:
    """Why the kernels cannot turn rows of `size` at `shape`, [B, T], by these tables, or None."""
    from plm.kernels.rope_configs import MOST_COLUMNS
    from plm.kernels.rows import dtype_problem, size_problem

    for name, table in (("cos", cos), ("sin", sin)):
        if table.shape != (*shape, size // 2):
            return f"{name} has shape {tuple(table.shape)}, not {(*shape, size // 2)}"
        if table.requires_grad and torch.is_grad_enabled():
            return f"{name} requires a gradient, which the Triton kernel does not make"
    return dtype_problem(cos=cos, sin=sin) or size_problem(of, size, MOST_COLUMNS)


def _problem(x: Tensor, cos: Tensor, sin: Tensor) -> str | None:
    from plm.kernels.rows import dtype_problem

    if x.device != cos.device:
        return f"x is on {x.device}, cos on {cos.device}"
    # A slice of wider heads needs no copy; tokens and columns must lie at one stride each.
    if x.numel() and (
        (x.shape[-1] > 1 and x.stride(-1) != 1)
        or (min(x.shape[:2]) > 1 and x.stride(0) != x.shape[1] * x.stride(1))
    ):
        return f"tokens or columns of x lie at more than one stride ({tuple(x.stride())})"
    return dtype_problem(x=x) or tables_problem("x", x.shape[:2], x.shape[-1], cos, sin)


def rope(x: Tensor, cos: Tensor, sin: Tensor, *, form: str = "auto") -> Tensor:
    """Turn each pair of `x` by its position's angle.

    Differentiable once where Triton runs it, in x alone: anything else raises.

    Args:
        x: [B, T, H, R] or [B, T, R], R even; for Triton bf16, fp16 or fp32, R at most 256. A slice
            of the last dimension of something wider is read where it lies.
        cos, sin: [B, T, R / 2], contiguous, fp32 or fp64.
        form: "auto", "triton" or "torch".
    Returns:
        Same shape and dtype as x, contiguous; computed in fp32, in fp64 for fp64.
    Raises:
        ConfigError: R is odd; form is "triton" and the kernel cannot run.
    """
    if x.shape[-1] % 2:
        raise ConfigError(f"rope: x has rows of {x.shape[-1]}; an even number can be turned")
    if use_triton("rope", form, {"cos": cos, "sin": sin}, lambda: _problem(x, cos, sin)):
        return _rope(x, cos, sin)
    # torch.compile makes one pass of the plain form by itself.
    whole = x.dtype in (torch.float32, torch.float64)
    fixed = not (cos.requires_grad or sin.requires_grad)
    if x.device.type == "cpu" and whole and fixed and not torch.compiler.is_compiling():
        return _rope(x, cos, sin, False)
    return plain(x, cos, sin)


def _complex(x: Tensor, cos: Tensor, sin: Tensor) -> Tensor:
    """By complex numbers: one pass where the plain form has eight."""
    steps = (*x.stride()[:-1], x.storage_offset())
    if x.stride(-1) != 1 or any(step % 2 for step in steps):
        x = x.contiguous()
    if x.dim() == 4:
        cos, sin = cos[:, :, None], sin[:, :, None]
    angles = torch.complex(cos.to(x.dtype), sin.to(x.dtype))
    turned = torch.view_as_complex(x.unflatten(-1, (-1, 2))) * angles
    return torch.view_as_real(turned).flatten(-2)
