"""Rotary position embedding on interleaved pairs (2i, 2i + 1), in one pass.

Paper: Su et al., RoFormer (arXiv:2104.09864), section 3.2
"""

import torch
from torch import Tensor

from plm.errors import ConfigError
from plm.kernels.dispatch import use_triton
from plm.kernels.reference.rope import rope as plain


@torch.library.custom_op("plm::rope", mutates_args=())
def _rope(x: Tensor, cos: Tensor, sin: Tensor) -> Tensor:
    from plm.kernels import rope_triton

    return rope_triton.turn(x, cos, sin, inverse=False)


@torch.library.custom_op("plm::rope_backward", mutates_args=())
def _rope_backward(grad: Tensor, cos: Tensor, sin: Tensor) -> Tensor:
    from plm.kernels import rope_triton

    return rope_triton.turn(grad.contiguous(), cos, sin, inverse=True)


@_rope.register_fake
@_rope_backward.register_fake
def _(x: Tensor, cos: Tensor, sin: Tensor) -> Tensor:
    return torch.empty(x.shape, dtype=x.dtype, device=x.device)


def _keep(ctx, inputs, output) -> None:
    ctx.save_for_backward(*inputs[1:])


def _backward(ctx, grad: Tensor) -> tuple:
    # The tables come from positions: no gradient of theirs is made, and one asked for is refused.
    return _rope_backward(grad, *ctx.saved_tensors), None, None


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
    # torch.compile makes one pass of the plain form, and cannot look into complex numbers.
    if x.device.type == "cpu" and not torch.compiler.is_compiling() and _has_pairs(x):
        return _complex(x, cos, sin)
    return plain(x, cos, sin)


def _has_pairs(x: Tensor) -> bool:
    """Whether each pair lies together, as a complex number would."""
    steps = (*x.stride()[:-1], x.storage_offset())
    whole = x.dtype in (torch.float32, torch.float64)
    return whole and x.stride(-1) == 1 and all(step % 2 == 0 for step in steps)


def _complex(x: Tensor, cos: Tensor, sin: Tensor) -> Tensor:
    """One pass where the plain form has eight."""
    if x.dim() == 4:
        cos, sin = cos[:, :, None], sin[:, :, None]
    angles = torch.complex(cos.to(x.dtype), sin.to(x.dtype))
    turned = torch.view_as_complex(x.unflatten(-1, (-1, 2))) * angles
    return torch.view_as_real(turned).flatten(-2)
