"""Log-probability of the label and entropy over chunks of rows; the full logits never exist.

Both have an exact gradient, which the backward makes from its chunks' logits, multiplied anew: it
needs the two incoming gradients. With p the distribution of a row at temperature t, H its entropy:
    d / d logits = (g_logp · (onehot - p) - g_entropy · p · (log p + H)) / t
Cost: 2·D·V FLOPs a kept row, 6·D·V more in the backward; one chunk of logits in memory.
"""

import torch
from torch import Tensor

from plm.batch import IGNORE_INDEX
from plm.kernels.linear_rows import Coefficients, Stats, Sweep, product_dtype, wide_dtype
from plm.kernels.linear_rows_check import check, check_temperature
from plm.kernels.reference.linear_logprob import LinearLogprob


@torch.library.custom_op("plm::linear_logprob", mutates_args=())
def _forward(
    hidden: Tensor,
    weight: Tensor,
    labels: Tensor,
    scale: float,
    chunk: int | None,
    dtype: torch.dtype,
    form: str,
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Log-probabilities, entropies, best tokens, and log-sum-exps for the backward; [N] each."""
    sweep = Sweep(
        "linear_logprob",
        (hidden, weight, labels),
        dtype,
        scale=scale,
        chunk=chunk,
        form=form,
        entropy=True,
        top1=True,
    )
    stats = sweep.run(None, False, False)[0]
    return (
        sweep.spread(stats.logps),
        sweep.spread(stats.entropy),
        sweep.spread(stats.top1, IGNORE_INDEX),
        sweep.spread(stats.log_sum),
    )


@_forward.register_fake
def _(hidden, weight, labels, scale, chunk, dtype, form):
    logps = hidden.new_empty(hidden.shape[:1], dtype=wide_dtype(dtype))
    return logps, torch.empty_like(logps), torch.empty_like(labels), torch.empty_like(logps)


# An op without a derivative: asking for the second one raises instead of giving a wrong number.
@torch.library.custom_op("plm::linear_logprob_backward", mutates_args=())
def _gradient(
    grad_logps: Tensor | None,
    grad_entropy: Tensor | None,
    hidden: Tensor,
    weight: Tensor,
    labels: Tensor,
    entropy: Tensor,
    log_sum: Tensor,
    scale: float,
    chunk: int | None,
    dtype: torch.dtype,
    form: str,
    need_hidden: bool,
    need_weight: bool,
) -> tuple[Tensor, Tensor]:
    """Gradients of hidden and weight, empty where not needed."""
    sweep = Sweep(
        "linear_logprob",
        (hidden, weight, labels),
        dtype,
        scale=scale,
        chunk=chunk,
        form=form,
        entropy=grad_entropy is not None,
    )
    known = sweep.pick(log_sum)
    gamma = torch.zeros_like(known)
    if grad_logps is not None:
        gamma += scale * sweep.pick(grad_logps)
    alpha, beta = -gamma, None
    if grad_entropy is not None:
        beta = -scale * sweep.pick(grad_entropy)
        alpha += beta * sweep.pick(entropy)

    def coefficients(span: slice, stats: Stats) -> Coefficients:
        return Coefficients(alpha[span], gamma[span], None if beta is None else beta[span])

    return sweep.run(coefficients, need_hidden, need_weight, known)[1:]


@_gradient.register_fake
def _(
    grad_logps,
    grad_entropy,
    hidden,
    weight,
    labels,
    entropy,
    log_sum,
    scale,
    chunk,
    dtype,
    form,
    need_hidden,
    need_weight,
):
    return (
        hidden.new_empty(hidden.shape if need_hidden else (0,)),
        weight.new_empty(weight.shape if need_weight else (0,)),
    )


def _keep(ctx, inputs, output) -> None:
    # Otherwise an entropy that nobody uses would bring zeros, and a costlier backward.
    ctx.set_materialize_grads(False)
    ctx.mark_non_differentiable(output[2], output[3])
    hidden, weight, labels, *ctx.settings = inputs
    ctx.save_for_backward(hidden, weight, labels, output[1], output[3])


def _backward(ctx, grad_logps: Tensor | None, grad_entropy: Tensor | None, *_) -> tuple:
    nothing = (None,) * 5
    if grad_logps is None and grad_entropy is None:
        return None, None, *nothing
    need = ctx.needs_input_grad[:2]
    grads = _gradient(grad_logps, grad_entropy, *ctx.saved_tensors, *ctx.settings, *need)
    return *(g if needed else None for g, needed in zip(grads, need, strict=True)), *nothing


_forward.register_autograd(_backward, setup_context=_keep)


def linear_logprob(
    hidden: Tensor,
    weight: Tensor,
    labels: Tensor,
    *,
    temperature: float = 1.0,
    chunk: int | None = None,
    form: str = "auto",
) -> LinearLogprob:
    """Log-probabilities of the labels under softmax(hidden @ weight.T / temperature).

    logps and entropy are differentiable, once: a second derivative raises, and needs the reference.
    Masked rows cost nothing.

    Args:
        hidden: [N, D], bf16, fp16, fp32 or fp64.
        weight: [V, D], dtype of hidden; its gradient is added up in fp32 (fp64 for fp64).
        labels: [N] int64; IGNORE_INDEX drops a row.
        temperature: the logits are divided by it; logps and entropy are those of what is left.
        chunk: rows at a time; None chooses by vocabulary and device.
        form: "auto", "triton" or "torch".
    Returns:
        fp32 (fp64 for fp64), top1 int64; under autocast the product runs in its dtype.
    Raises:
        ConfigError: a label is neither a token nor IGNORE_INDEX, shapes do not fit, temperature or
            chunk is not positive, or form cannot be had.
    """
    check("linear_logprob", hidden, weight, labels, chunk)
    check_temperature("linear_logprob", temperature)
    dtype = product_dtype(hidden)
    logps, entropy, top1, _ = _forward(hidden, weight, labels, 1 / temperature, chunk, dtype, form)
    return LinearLogprob(logps, entropy, top1)
