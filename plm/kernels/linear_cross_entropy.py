"""Head product and cross-entropy over chunks of rows; the full logits never exist.

The gradient is made in the forward, while a chunk's logits are at hand, so that nothing is
computed twice. For a row with logits l, label y and Z = logsumexp(l):
    total = a * (Z - l_y) + b * Z^2
    d total / d l = (a + 2 * b * Z) * softmax(l) - a * onehot(y)
which is why the weights a and b must be known here.
Cost: 6·D·V FLOPs a kept row with gradients, 2·D·V without; one chunk of logits in memory.
"""

import torch
from torch import Tensor

from plm.kernels.linear_rows import (
    Coefficients,
    Stats,
    Sweep,
    frees_graph,
    product_dtype,
    scaled,
    scaled_in_place,
    wide_dtype,
)
from plm.kernels.linear_rows_check import check
from plm.kernels.reference.linear_cross_entropy import LinearCrossEntropy


@torch.library.custom_op("plm::linear_cross_entropy", mutates_args=())
def _forward(
    hidden: Tensor,
    weight: Tensor,
    labels: Tensor,
    ce_weight: float,
    z_weight: float,
    chunk: int | None,
    dtype: torch.dtype,
    need_hidden: bool,
    need_weight: bool,
    form: str = "auto",
) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor, Tensor]:
    """Total, count, ce, z, gradient of hidden, gradient of weight (empty where not needed)."""
    sweep = Sweep(
        "linear_cross_entropy", (hidden, weight, labels), dtype, chunk=chunk, form=form
    )  # fmt: skip

    def coefficients(span: slice, stats: Stats) -> Coefficients:
        alpha = ce_weight + 2 * z_weight * stats.log_sum
        return Coefficients(alpha, torch.full_like(alpha, -ce_weight))

    stats, grad_hidden, grad_weight = sweep.run(coefficients, need_hidden, need_weight)
    ce, z = (-stats.logps).sum(), stats.log_sum.square().sum()
    count = labels.new_full((), sweep.rows.shape[0])
    return ce_weight * ce + z_weight * z, count, ce, z, grad_hidden, grad_weight


@_forward.register_fake
def _(
    hidden, weight, labels, ce_weight, z_weight, chunk, dtype, need_hidden, need_weight, form="auto"
):
    total = hidden.new_empty((), dtype=wide_dtype(dtype))
    return (
        total,
        labels.new_empty(()),
        torch.empty_like(total),
        torch.empty_like(total),
        hidden.new_empty(hidden.shape if need_hidden else (0,)),
        weight.new_empty(weight.shape if need_weight else (0,)),
    )


# An op without a derivative: asking for the second one raises instead of giving a wrong number.
@torch.library.custom_op("plm::linear_cross_entropy_backward", mutates_args=())
def _scale(grad: Tensor, grad_hidden: Tensor, grad_weight: Tensor) -> tuple[Tensor, Tensor]:
    return scaled(grad, grad_hidden, grad_weight)


@_scale.register_fake
def _(grad: Tensor, grad_hidden: Tensor, grad_weight: Tensor) -> tuple[Tensor, Tensor]:
    return torch.empty_like(grad_hidden), torch.empty_like(grad_weight)


def _keep(ctx, inputs, output) -> None:
    # Otherwise autograd fills a tensor of zeros for every output, the two gradients included.
    ctx.set_materialize_grads(False)
    ctx.needed = inputs[7:9]
    ctx.save_for_backward(*output[4:])


def _backward(ctx, grad: Tensor | None, *_) -> tuple:
    nothing = (None,) * 8
    if grad is None:
        return None, None, *nothing
    scale = scaled_in_place if frees_graph() else _scale
    grads = scale(grad, *ctx.saved_tensors)
    return *(g if needed else None for g, needed in zip(grads, ctx.needed, strict=True)), *nothing


_forward.register_autograd(_backward, setup_context=_keep)


def linear_cross_entropy(
    hidden: Tensor,
    weight: Tensor,
    labels: Tensor,
    *,
    ce_weight: float = 1.0,
    z_weight: float = 0.0,
    chunk: int | None = None,
    form: str = "auto",
) -> LinearCrossEntropy:
    """Cross-entropy of `hidden @ weight.T` and the squared log-partition, summed over kept rows.

    Masked rows cost nothing, and neither does the z term. Differentiable once: a second derivative
    raises, and needs the reference. Without need of a gradient none is computed.

    Args:
        hidden: [N, D], bf16, fp16, fp32 or fp64.
        weight: [V, D], dtype of hidden; its gradient is added up in fp32 (fp64 for fp64).
        labels: [N] int64; IGNORE_INDEX drops a row.
        ce_weight: factor on the cross-entropy in the total.
        z_weight: factor on the squared log-sum-exp in the total.
        chunk: rows at a time; None chooses by vocabulary and device.
        form: "auto", "triton" or "torch".
    Returns:
        Sums in fp32 (fp64 for fp64); under autocast the product runs in its dtype.
    Raises:
        ConfigError: a label is neither a token nor IGNORE_INDEX, shapes do not fit, chunk is not
            positive, or form cannot be had.
    """
    check("linear_cross_entropy", hidden, weight, labels, chunk)
    grad = torch.is_grad_enabled()
    total, count, ce, z, _, _ = _forward(
        hidden,
        weight,
        labels,
        float(ce_weight),
        float(z_weight),
        chunk,
        product_dtype(hidden),
        grad and hidden.requires_grad,
        grad and weight.requires_grad,
        form,
    )
    return LinearCrossEntropy(total, count, ce.detach(), z.detach())
