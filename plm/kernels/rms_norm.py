"""Root-mean-square norm with a backward of its own.

Paper: Zhang and Sennrich (arXiv:1910.07467)
Departs: the weight is multiplied before the cast back to x's dtype, as PLM does.
"""

import torch
import torch.nn.functional as F
from torch import Tensor

from plm.kernels.dispatch import use_triton


def _wide(dtype: torch.dtype) -> torch.dtype:
    return torch.float64 if dtype == torch.float64 else torch.float32


def plain_forward(x: Tensor, weight: Tensor, eps: float) -> tuple[Tensor, Tensor]:
    """Normed x, and 1 / rms of each row, [rows, 1] in the wide dtype."""
    rows = x.reshape(-1, x.shape[-1]).to(_wide(x.dtype))
    norm = torch.linalg.vector_norm(rows, dim=-1, keepdim=True)
    inverse = norm.square_().div_(x.shape[-1]).add_(eps).rsqrt_()
    out = (rows * inverse).mul_(weight.to(rows.dtype))
    return out.to(x.dtype).view(x.shape), inverse


def plain_backward(
    grad: Tensor, x: Tensor, weight: Tensor, inverse: Tensor
) -> tuple[Tensor, Tensor]:
    """Gradients of x and weight."""
    size = x.shape[-1]
    rows = x.reshape(-1, size).to(inverse.dtype)
    grad_rows = grad.reshape(-1, size).to(inverse.dtype)
    scale = weight.to(inverse.dtype)
    product = grad_rows * rows
    along = torch.mv(product, scale).unsqueeze(-1).mul_(inverse.pow(3)).div_(size)
    # A product with a vector would add the rows up one by one; sum adds them pairwise.
    grad_weight = product.mul_(inverse).sum(0)
    grad_x = torch.mul(grad_rows, scale, out=product).mul_(inverse)
    grad_x.addcmul_(rows, along, value=-1)
    return grad_x.to(x.dtype).view(x.shape), grad_weight.to(weight.dtype)


@torch.library.custom_op("plm::rms_norm", mutates_args=())
def _rms_norm(
    x: Tensor,
    weight: Tensor,
    eps: float,
    triton: bool = False,
    out_dtype: torch.dtype | None = None,
) -> tuple[Tensor, Tensor]:
    if triton:
        from plm.kernels import rms_norm_triton

        return rms_norm_triton.rms_norm(x, weight, eps, out_dtype or x.dtype)
    return plain_forward(x, weight, eps)


@_rms_norm.register_fake
def _(x, weight, eps, triton=False, out_dtype=None):
    rows = x.numel() // x.shape[-1]
    out = x.new_empty(x.shape, dtype=out_dtype if triton else None)
    return out, x.new_empty((rows, 1), dtype=_wide(x.dtype))


@torch.library.custom_op("plm::rms_norm_backward", mutates_args=())
def _rms_norm_backward(
    grad: Tensor, x: Tensor, weight: Tensor, inverse: Tensor, triton: bool
) -> tuple[Tensor, Tensor]:
    if triton:
        from plm.kernels import rms_norm_triton

        return rms_norm_triton.rms_norm_backward(grad, x, weight, inverse)
    return plain_backward(grad, x, weight, inverse)


@_rms_norm_backward.register_fake
def _(
    grad: Tensor, x: Tensor, weight: Tensor, inverse: Tensor, triton: bool
) -> tuple[Tensor, Tensor]:
    return x.new_empty(x.shape), torch.empty_like(weight)


def _keep(ctx, inputs, output) -> None:
    # Otherwise autograd fills a tensor of zeros for the second output, which nobody uses.
    ctx.set_materialize_grads(False)
    ctx.triton = inputs[3]
    ctx.save_for_backward(inputs[0], inputs[1], output[1])


def _backward(ctx, grad: Tensor | None, _: Tensor | None) -> tuple:
    if grad is None:
        return None, None, None, None, None
    return *_rms_norm_backward(grad, *ctx.saved_tensors, ctx.triton), None, None, None


_rms_norm.register_autograd(_backward, setup_context=_keep)


def narrowed(wide: torch.dtype, device: str) -> torch.dtype:
    """What a norm's Triton kernel writes: under autocast its dtype, which the products after the
    norm would cast to anyway.
    """
    if torch.is_autocast_enabled(device) and wide != torch.float64:
        return torch.get_autocast_dtype(device)
    return wide


def norm_problem(x: Tensor, weight: Tensor) -> str | None:
    """Why the kernels cannot norm rows like those of x with this weight, or None."""
    from plm.kernels.rms_norm_configs import MOST_COLUMNS
    from plm.kernels.rows import dtype_problem, size_problem

    if weight.shape != x.shape[-1:]:
        return f"weight has shape {tuple(weight.shape)}, the rows of x are {x.shape[-1]} long"
    return dtype_problem(x=x, weight=weight) or size_problem("x", x.shape[-1], MOST_COLUMNS)


def rms_norm(x: Tensor, weight: Tensor, eps: float, *, form: str = "auto") -> Tensor:
    """x / sqrt(mean(x^2) + eps) * weight over the last dimension.

    Differentiable once where Triton or a CPU runs it: a second derivative raises, and needs the
    reference. The weight's gradient is added up in an order that only the GPU decides.

    Args:
        x: [..., D]; for Triton contiguous, bf16, fp16 or fp32, D at most 8192.
        weight: [D].
        eps: added to the mean square.
        form: "auto", "triton" or "torch".
    Returns:
        [..., D] in the dtype of x, from Triton under autocast in its dtype; the arithmetic, weight
        included, is fp32 (fp64 for fp64).
    Raises:
        ConfigError: form is "triton" and the kernel cannot run.
    """
    tensors = {"x": x, "weight": weight}
    if use_triton("rms_norm", form, tensors, lambda: norm_problem(x, weight)):
        return _rms_norm(x, weight, eps, True, narrowed(x.dtype, x.device.type))[0]
    # torch.compile joins the plain form with what is around it; the op would be a wall in there.
    if x.device.type == "cpu" and not torch.compiler.is_compiling():
        return _rms_norm(x, weight, eps)[0]
    wide = _wide(x.dtype)
    return F.rms_norm(x.to(wide), (x.shape[-1],), weight.to(wide), eps).to(x.dtype)
