"""Root-mean-square norm with a backward of its own on CPUs.

Paper: Zhang and Sennrich (arXiv:1910.07467)
Departs: the weight is multiplied before the cast back to x's dtype, as PLM does.
"""

import torch
import torch.nn.functional as F
from torch import Tensor


def _wide(dtype: torch.dtype) -> torch.dtype:
    return torch.float64 if dtype == torch.float64 else torch.float32


@torch.library.custom_op("plm::rms_norm", mutates_args=())
def _rms_norm(x: Tensor, weight: Tensor, eps: float) -> tuple[Tensor, Tensor]:
    rows = x.reshape(-1, x.shape[-1]).to(_wide(x.dtype))
    norm = torch.linalg.vector_norm(rows, dim=-1, keepdim=True)
    inverse = norm.square_().div_(x.shape[-1]).add_(eps).rsqrt_()
    out = (rows * inverse).mul_(weight.to(rows.dtype))
    return out.to(x.dtype).view(x.shape), inverse


@_rms_norm.register_fake
def _(x: Tensor, weight: Tensor, eps: float) -> tuple[Tensor, Tensor]:
    rows = x.numel() // x.shape[-1]
    return x.new_empty(x.shape), x.new_empty((rows, 1), dtype=_wide(x.dtype))


@torch.library.custom_op("plm::rms_norm_backward", mutates_args=())
def _rms_norm_backward(
    grad: Tensor, x: Tensor, weight: Tensor, inverse: Tensor
) -> tuple[Tensor, Tensor]:
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


@_rms_norm_backward.register_fake
def _(grad: Tensor, x: Tensor, weight: Tensor, inverse: Tensor) -> tuple[Tensor, Tensor]:
    return x.new_empty(x.shape), torch.empty_like(weight)


def _keep(ctx, inputs, output) -> None:
    # Otherwise autograd fills a tensor of zeros for the second output, which nobody uses.
    ctx.set_materialize_grads(False)
    ctx.save_for_backward(inputs[0], inputs[1], output[1])


def _backward(ctx, grad: Tensor | None, _: Tensor | None) -> tuple:
    if grad is None:
        return None, None, None
    return *_rms_norm_backward(grad, *ctx.saved_tensors), None


_rms_norm.register_autograd(_backward, setup_context=_keep)


def rms_norm(x: Tensor, weight: Tensor, eps: float) -> Tensor:
    """x / sqrt(mean(x^2) + eps) * weight over the last dimension.

    Differentiable once on CPUs: a second derivative raises, and needs the reference.

    Args:
        x: [..., D].
        weight: [D].
        eps: added to the mean square.
    Returns:
        [..., D] in the dtype of x; the arithmetic, weight included, is fp32 (fp64 for fp64).
    """
    if x.device.type == "cpu":
        return _rms_norm(x, weight, eps)[0]
    wide = _wide(x.dtype)
    return F.rms_norm(x.to(wide), (x.shape[-1],), weight.to(wide), eps).to(x.dtype)
