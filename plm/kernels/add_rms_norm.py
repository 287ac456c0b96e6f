"""Addition to the residual stream and the norm after it, in one pass each way.

Paper: Zhang and Sennrich (arXiv:1910.07467)
Departs: the norm is of the sum rounded to its dtype, as in a model that adds and norms apart.
"""

import torch
from torch import Tensor

from plm.errors import ConfigError
from plm.kernels.dispatch import use_triton
from plm.kernels.rms_norm import narrowed, norm_problem, plain_backward, plain_forward, rms_norm


@torch.library.custom_op("plm::add_rms_norm", mutates_args=())
def _add_rms_norm(
    x: Tensor,
    residual: Tensor,
    weight: Tensor,
    eps: float,
    triton: bool,
    out_dtype: torch.dtype | None = None,
) -> tuple[Tensor, Tensor, Tensor]:
    """Norm of the sum, the sum, 1 / rms of each row [rows, 1]."""
    if triton:
        from plm.kernels import rms_norm_triton

        return rms_norm_triton.add_rms_norm(x, residual, weight, eps, out_dtype)
    summed = x + residual
    out, inverse = plain_forward(summed, weight, eps)
    return out, summed, inverse


@_add_rms_norm.register_fake
def _(x, residual, weight, eps, triton, out_dtype=None):
    summed = x + residual
    wide = torch.float64 if summed.dtype == torch.float64 else torch.float32
    rows = x.numel() // x.shape[-1]
    out = summed.new_empty(x.shape, dtype=out_dtype if triton else None)
    return out, summed, x.new_empty((rows, 1), dtype=wide)


@torch.library.custom_op("plm::add_rms_norm_backward", mutates_args=())
def _add_rms_norm_backward(
    grad: Tensor,
    grad_summed: Tensor | None,
    summed: Tensor,
    weight: Tensor,
    inverse: Tensor,
    x_dtype: torch.dtype,
    residual_dtype: torch.dtype,
    triton: bool,
) -> tuple[Tensor, Tensor, Tensor]:
    """Gradients of x, of residual (empty where x's serves), of weight."""
    kinds = x_dtype, residual_dtype
    if triton:
        from plm.kernels import rms_norm_triton

        return rms_norm_triton.add_rms_norm_backward(
            grad, grad_summed, summed, weight, inverse, kinds
        )
    slope, grad_weight = plain_backward(grad, summed, weight, inverse)
    if grad_summed is not None:
        slope.add_(grad_summed)
    if x_dtype == residual_dtype:
        return slope, slope.new_empty(0), grad_weight
    return *(slope.to(kind, copy=True) for kind in kinds), grad_weight


@_add_rms_norm_backward.register_fake
def _(grad, grad_summed, summed, weight, inverse, x_dtype, residual_dtype, triton):
    shape = summed.shape if x_dtype != residual_dtype else (0,)
    kind = residual_dtype if x_dtype != residual_dtype else summed.dtype
    grad_residual = summed.new_empty(shape, dtype=kind)
    return summed.new_empty(summed.shape, dtype=x_dtype), grad_residual, torch.empty_like(weight)


def _keep(ctx, inputs, output) -> None:
    # Otherwise autograd fills zeros for an output that nobody uses.
    ctx.set_materialize_grads(False)
    ctx.kinds = inputs[0].dtype, inputs[1].dtype
    ctx.triton = inputs[4]
    ctx.save_for_backward(output[1], inputs[2], output[2])


def _backward(ctx, grad: Tensor | None, grad_summed: Tensor | None, _: Tensor | None) -> tuple:
    if grad is None:
        both = (None, None) if grad_summed is None else map(grad_summed.to, ctx.kinds)
        return *both, None, None, None, None
    grad_x, grad_residual, grad_weight = _add_rms_norm_backward(
        grad, grad_summed, *ctx.saved_tensors, *ctx.kinds, ctx.triton
    )
    if ctx.kinds[0] == ctx.kinds[1]:
        grad_residual = grad_x
    return grad_x, grad_residual, grad_weight, None, None, None


_add_rms_norm.register_autograd(_backward, setup_context=_keep)


def add_rms_norm(
    x: Tensor, residual: Tensor, weight: Tensor, eps: float, *, form: str = "auto"
) -> tuple[Tensor, Tensor]:
    """The sum x + residual, and its root-mean-square norm times weight.

    Differentiable once where Triton or a CPU runs it: a second derivative raises, and needs the
    reference.

    Args:
        x: [..., D], what a layer's part gave; for Triton contiguous, bf16, fp16 or fp32, D at most
            8192.
        residual: [..., D], the same shape; its dtype may be another.
        weight: [D].
        eps: added to the mean square.
        form: "auto", "triton" or "torch".
    Returns:
        The norm and the sum, [..., D] in the dtype that x + residual has; from Triton under
        autocast the norm in its dtype.
    Raises:
        ConfigError: the shapes differ; form is "triton" and the kernel cannot run.
    """
    if x.shape != residual.shape:
        raise ConfigError(
            f"add_rms_norm: x has shape {tuple(x.shape)}, residual {tuple(residual.shape)}; "
            "they must be equal"
        )
    tensors = {"x": x, "residual": residual, "weight": weight}
    if use_triton("add_rms_norm", form, tensors, lambda: _problem(x, residual, weight)):
        wide = torch.promote_types(x.dtype, residual.dtype)
        return _add_rms_norm(x, residual, weight, eps, True, narrowed(wide, x.device.type))[:2]
    if x.device.type == "cpu":
        return _add_rms_norm(x, residual, weight, eps, False)[:2]
    summed = x + residual
    return rms_norm(summed, weight, eps, form="torch"), summed


def _problem(x: Tensor, residual: Tensor, weight: Tensor) -> str | None:
    from plm.kernels.rows import dtype_problem

    return dtype_problem(residual=residual) or norm_problem(x, weight)
