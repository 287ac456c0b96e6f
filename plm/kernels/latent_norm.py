"""Norm of the latent, fused with its split from the shared rotary key and the key's rotation.

Paper: DeepSeek-AI, DeepSeek-V2 (arXiv:2405.04434), section 2.1
"""

import torch
from torch import Tensor

from plm.errors import ConfigError
from plm.kernels.dispatch import use_triton
from plm.kernels.rms_norm import rms_norm
from plm.kernels.rope import rope, tables_problem


@torch.library.custom_op("plm::latent_norm", mutates_args=())
def _latent_norm(
    kv_a: Tensor, weight: Tensor, cos: Tensor, sin: Tensor, eps: float, rank: int, rotate: bool
) -> tuple[Tensor, Tensor, Tensor]:
    """Latent, key, 1 / rms of each row [rows, 1]."""
    from plm.kernels import latent_norm_triton

    return latent_norm_triton.latent_norm(kv_a, weight, cos, sin, eps, rank, rotate)


@_latent_norm.register_fake
def _(kv_a, weight, cos, sin, eps, rank, rotate):
    *shape, both = kv_a.shape
    inverse = kv_a.new_empty((kv_a.numel() // both, 1), dtype=torch.float32)
    return kv_a.new_empty((*shape, rank)), kv_a.new_empty((*shape, both - rank)), inverse


@torch.library.custom_op("plm::latent_norm_backward", mutates_args=())
def _latent_norm_backward(
    grad_latent: Tensor,
    grad_rope: Tensor,
    kv_a: Tensor,
    weight: Tensor,
    cos: Tensor,
    sin: Tensor,
    inverse: Tensor,
    rotate: bool,
) -> tuple[Tensor, Tensor]:
    from plm.kernels import latent_norm_triton

    return latent_norm_triton.latent_norm_backward(
        grad_latent, grad_rope, kv_a, weight, (cos, sin), inverse, rotate
    )


@_latent_norm_backward.register_fake
def _(grad_latent, grad_rope, kv_a, weight, cos, sin, inverse, rotate):
    return torch.empty_like(kv_a), torch.empty_like(weight)


def _keep(ctx, inputs, output) -> None:
    # Otherwise autograd fills zeros for 1 / rms, which nobody differentiates.
    ctx.set_materialize_grads(False)
    ctx.rotate = inputs[6]
    ctx.save_for_backward(*inputs[:4], output[2])


def _backward(ctx, grad_latent: Tensor | None, grad_rope: Tensor | None, _: Tensor | None) -> tuple:
    kv_a, weight, cos, sin, inverse = ctx.saved_tensors
    nothing = (None,) * 5
    if grad_latent is None and grad_rope is None:
        return None, None, *nothing
    *shape, both = kv_a.shape
    if grad_latent is None:
        grad_latent = kv_a.new_zeros((*shape, len(weight)))
    if grad_rope is None:
        grad_rope = kv_a.new_zeros((*shape, both - len(weight)))
    grads = _latent_norm_backward(
        grad_latent, grad_rope, kv_a, weight, cos, sin, inverse, ctx.rotate
    )
    return *grads, *nothing


_latent_norm.register_autograd(_backward, setup_context=_keep)


def _problem(kv_a: Tensor, weight: Tensor, cos: Tensor, sin: Tensor) -> str | None:
    from plm.kernels.latent_norm_configs import MOST_COLUMNS
    from plm.kernels.rows import dtype_problem, size_problem

    return (
        dtype_problem(kv_a=kv_a, weight=weight)
        or size_problem("weight", len(weight), MOST_COLUMNS)
        or tables_problem("kv_a", kv_a.shape[:2], kv_a.shape[-1] - len(weight), cos, sin)
    )


def latent_norm(
    kv_a: Tensor,
    weight: Tensor,
    cos: Tensor,
    sin: Tensor,
    eps: float,
    *,
    rank: int,
    rotate: bool = True,
    form: str = "auto",
) -> tuple[Tensor, Tensor]:
    """Split the projection into the normed latent and the shared key, in one pass each way.

    Differentiable once where Triton or a CPU runs it: a second derivative raises, and needs the
    reference.

    Args:
        kv_a: [B, T, C + R]; for Triton contiguous, bf16, fp16 or fp32, C at most 2048, R at most
            256.
        weight: [C], of the norm.
        cos, sin: [B, T, R / 2], contiguous, fp32 or fp64; not read without rotation.
        eps: added to the mean square.
        rank: C.
        rotate: whether the key is turned by its position; otherwise it is copied.
        form: "auto", "triton" or "torch".
    Returns:
        Latent [B, T, C] and key [B, T, R] in the dtype of kv_a, contiguous.
    Raises:
        ConfigError: rank is not the weight's size, or leaves an odd number of columns or none; form
            is "triton" and the kernel cannot run.
    """
    rest = kv_a.shape[-1] - rank
    if len(weight) != rank or rest < 1 or rest % 2:
        raise ConfigError(
            f"latent_norm: rank={rank} must be the weight's size, {len(weight)}, and leave an even "
            f"number of kv_a's {kv_a.shape[-1]} columns for the key"
        )
    tensors = {"kv_a": kv_a, "weight": weight, "cos": cos, "sin": sin}
    if use_triton("latent_norm", form, tensors, lambda: _problem(kv_a, weight, cos, sin)):
        return _latent_norm(kv_a, weight, cos, sin, eps, rank, rotate)[:2]
    latent, k_rope = kv_a.split([rank, rest], dim=-1)
    k_rope = rope(k_rope, cos, sin, form="torch") if rotate else k_rope.contiguous()
    return rms_norm(latent, weight, eps, form="torch"), k_rope
