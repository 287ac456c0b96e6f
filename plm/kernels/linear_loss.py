"""Head product and any loss of log-probabilities and entropies, in one pass over chunks of rows.

As in the cross-entropy the gradient is made in the forward, while a chunk's logits are at hand: the
loss is a function of each row by itself, so that its slopes are known as soon as the row's
log-probability and entropy are. That spares the product that `linear_logprob` makes again in its
backward, which has to wait for the slopes; what needs whole sequences first is made from it.
With p the distribution of a row at temperature t, H its entropy, a and b the loss's slopes:
    d / d logits = (a · (onehot - p) - b · p · (log p + H)) / t
Cost: 6·D·V FLOPs a kept row with gradients, 2·D·V without; one chunk of logits in memory.
"""

from typing import Any

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
)
from plm.kernels.linear_rows_check import check, check_temperature
from plm.kernels.reference.linear_loss import Each, LinearLoss


class _Fused(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any,
        hidden: Tensor,
        weight: Tensor,
        labels: Tensor,
        each: Each,
        settings: dict[str, Any],
        need: tuple[bool, bool],
    ) -> tuple[Tensor, Tensor, Tensor]:
        scale = settings["scale"]
        sweep = Sweep("linear_loss", (hidden, weight, labels), entropy=True, **settings)

        def coefficients(span: slice, stats: Stats) -> Coefficients:
            slope, of_entropy = _slopes(each, stats, span)
            gamma = scale * slope
            if of_entropy is None:
                return Coefficients(-gamma, gamma)
            beta = -scale * of_entropy
            return Coefficients(beta * stats.entropy - gamma, gamma, beta)

        stats, *gradients = sweep.run(coefficients, *need)
        loss = each(stats.logps, stats.entropy, slice(0, len(stats.logps))).sum()
        ctx.save_for_backward(*gradients)
        ctx.set_materialize_grads(False)
        ctx.mark_non_differentiable(stats.logps, stats.entropy)
        return loss, stats.logps, stats.entropy

    @staticmethod
    def backward(ctx: Any, grad: Tensor | None, *_: Any) -> tuple[Tensor | None, ...]:
        nothing = (None,) * 4
        if torch.is_grad_enabled():
            raise RuntimeError(
                "linear_loss has no second derivative; the form in plm.kernels.reference does"
            )
        if grad is None:
            return None, None, *nothing
        scale = scaled_in_place if frees_graph() else scaled
        grads = scale(grad, *ctx.saved_tensors)
        needed = ctx.needs_input_grad[:2]
        return *(g if need else None for g, need in zip(grads, needed, strict=True)), *nothing


def _slopes(each: Each, stats: Stats, span: slice) -> tuple[Tensor, Tensor | None]:
    """Of the loss, along the log-probabilities and the entropies; None: it has no entropy."""
    with torch.enable_grad():
        logps = stats.logps.detach().requires_grad_()
        entropy = stats.entropy.detach().requires_grad_()
        loss = each(logps, entropy, span).sum()
        if not loss.requires_grad:
            return torch.zeros_like(logps), None
        found = torch.autograd.grad(loss, (logps, entropy), allow_unused=True)
    return torch.zeros_like(logps) if found[0] is None else found[0], found[1]


def linear_loss(
    hidden: Tensor,
    weight: Tensor,
    labels: Tensor,
    each: Each,
    *,
    temperature: float = 1.0,
    chunk: int | None = None,
    form: str = "auto",
) -> LinearLoss:
    """Sum of a loss of each kept row's log-probability and entropy, without the full logits.

    Differentiable once by hidden and weight: a backward with create_graph raises, and needs the
    reference.
    Masked rows cost nothing. What `each` computes with besides counts as constant.

    Args:
        hidden: [N, D], bf16, fp16, fp32 or fp64.
        weight: [V, D], dtype of hidden; its gradient is added up in fp32 (fp64 for fp64).
        labels: [N] int64; IGNORE_INDEX drops a row.
        each: `(logps, entropy, span) -> [n]`, the loss of the kept rows in `span`, counted without
            the others: all [n], wide, differentiable. It is called for a part of the rows at a
            time, and once for all: what a row has may not depend on others.
        temperature: the logits are divided by it; logps and entropy are those of what is left.
        chunk: rows at a time; None chooses by vocabulary and device.
        form: "auto", "triton" or "torch".
    Returns:
        fp32 (fp64 for fp64); under autocast the product runs in its dtype.
    Raises:
        ConfigError: a label is neither a token nor IGNORE_INDEX, shapes do not fit, temperature or
            chunk is not positive, or form cannot be had.
    """
    check("linear_loss", hidden, weight, labels, chunk)
    check_temperature("linear_loss", temperature)
    settings = {
        "dtype": product_dtype(hidden),
        "scale": 1 / temperature,
        "chunk": chunk,
        "form": form,
    }
    grad = torch.is_grad_enabled()
    need = (grad and hidden.requires_grad, grad and weight.requires_grad)
    return LinearLoss(*_Fused.apply(hidden, weight, labels, each, settings, need))
