"""Head product and token-level policy loss in one pass over chunks of rows.

As in the cross-entropy the gradient is made in the forward, while a chunk's logits are at hand.
Of a kept row with log-probability lp, old one o, advantage A, r = exp(lp - o), entropy H:
    clip    -min(r·A, clip(r, 1 - low, 1 + high)·A)
    cispo   -sg(clip(r, 1 - low, 1 + high))·A·lp
    loss    that + kl_weight·(exp(ref - lp) - (ref - lp) - 1) - entropy_weight·H
and total = sum of weight · loss. GRPO, DAPO and Dr. GRPO are "clip" with other weights: 1 / length,
1 / tokens of the batch, a constant; DAPO also has the larger clip_high. Objectives over sequences
(GSPO) are made from `linear_logprob`.

Paper: Shao et al., DeepSeekMath: GRPO (arXiv:2402.03300)
Paper: Yu et al., DAPO (arXiv:2503.14476)
Paper: Liu et al., Understanding R1-Zero-Like Training: Dr. GRPO (arXiv:2503.20783)
Paper: MiniMax, MiniMax-M1: CISPO (arXiv:2506.13585)
Departs: cispo's bounds are distances from 1 as clip's are, as in verl; where TRL or ScaleRL write
an upper bound of 5 on the ratio itself, this is clip_high = 4. clip_low ≥ 1 is no lower bound.
Cost: 6·D·V FLOPs a kept row with gradients, 2·D·V without; one chunk of logits in memory.
"""

from typing import NamedTuple

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
from plm.kernels.linear_rows_check import check, check_rows, check_temperature
from plm.kernels.reference.linear_policy_loss import LinearPolicyLoss, check_policy


class _Tokens(NamedTuple):
    """What is known of the kept rows, wide."""

    old_logps: Tensor | None
    advantages: Tensor
    weights: Tensor
    ref_logps: Tensor | None

    def rows(self, span: slice) -> "_Tokens":
        return _Tokens(*(None if part is None else part[span] for part in self))


class _Surrogate(NamedTuple):
    """Of each row: the policy's loss, its slope along lp, and whether a bound held the ratio."""

    loss: Tensor
    slope: Tensor
    below: Tensor
    above: Tensor


def _surrogate(
    objective: str, logps: Tensor, tokens: _Tokens, clip_low: float, clip_high: float
) -> _Surrogate:
    low, high, advantages = 1 - clip_low, 1 + clip_high, tokens.advantages
    old = tokens.old_logps
    ratio = torch.ones_like(logps) if old is None else (logps - old).exp()
    bounded = ratio.clamp(low, high) * advantages
    if objective == "cispo":
        moved = advantages != 0
        return _Surrogate(
            -bounded * logps, -bounded, (ratio < low) & moved, (ratio > high) & moved
        )  # fmt: skip
    free = ratio * advantages
    return _Surrogate(
        -torch.minimum(free, bounded),
        # At equality both branches have the same slope, or the advantage is zero.
        torch.where(free > bounded, 0, -free),
        (ratio < low) & (advantages < 0),
        (ratio > high) & (advantages > 0),
    )


@torch.library.custom_op("plm::linear_policy_loss", mutates_args=())
def _forward(
    hidden: Tensor,
    weight: Tensor,
    labels: Tensor,
    old_logps: Tensor | None,
    advantages: Tensor,
    weights: Tensor,
    ref_logps: Tensor | None,
    objective: str,
    clip_low: float,
    clip_high: float,
    kl_weight: float,
    entropy_weight: float,
    scale: float,
    chunk: int | None,
    dtype: torch.dtype,
    form: str,
    need_hidden: bool,
    need_weight: bool,
) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor, Tensor, Tensor, Tensor, Tensor]:
    """The fields of LinearPolicyLoss, gradient of hidden, gradient of weight (or empty)."""
    sweep = Sweep(
        "linear_policy_loss",
        (hidden, weight, labels),
        dtype,
        scale=scale,
        chunk=chunk,
        form=form,
        entropy=True,
    )
    given = (old_logps, advantages, weights, ref_logps)
    tokens = _Tokens(*(None if t is None else sweep.pick(t).to(sweep.wide) for t in given))

    def coefficients(span: slice, stats: Stats) -> Coefficients:
        here = tokens.rows(span)
        slope = _surrogate(objective, stats.logps, here, clip_low, clip_high).slope
        if kl_weight:
            slope = slope - kl_weight * torch.expm1(here.ref_logps - stats.logps)
        gamma = scale * here.weights * slope
        if not entropy_weight:
            return Coefficients(-gamma, gamma)
        beta = scale * entropy_weight * here.weights
        return Coefficients(beta * stats.entropy - gamma, gamma, beta)

    stats, *gradients = sweep.run(coefficients, need_hidden, need_weight)
    found = _surrogate(objective, stats.logps, tokens, clip_low, clip_high)
    loss, kl = found.loss, torch.zeros_like(stats.logps)
    if ref_logps is not None:
        gap = tokens.ref_logps - stats.logps
        kl = torch.expm1(gap) - gap
    if kl_weight:
        loss = loss + kl_weight * kl
    if entropy_weight:
        loss = loss - entropy_weight * stats.entropy
    return (
        (tokens.weights * loss).sum(),
        sweep.spread(stats.logps),
        sweep.spread(stats.entropy),
        kl.sum(),
        found.below.sum(),
        found.above.sum(),
        labels.new_full((), sweep.rows.shape[0]),
        *gradients,
    )


@_forward.register_fake
def _(hidden, weight, labels, *settings):
    dtype, need_hidden, need_weight = settings[-4], *settings[-2:]
    rows = hidden.new_empty(hidden.shape[:1], dtype=wide_dtype(dtype))
    return (
        rows.new_empty(()),
        rows,
        torch.empty_like(rows),
        rows.new_empty(()),
        *(labels.new_empty(()) for _ in range(3)),
        hidden.new_empty(hidden.shape if need_hidden else (0,)),
        weight.new_empty(weight.shape if need_weight else (0,)),
    )


# An op without a derivative: asking for the second one raises instead of giving a wrong number.
@torch.library.custom_op("plm::linear_policy_loss_backward", mutates_args=())
def _scale(grad: Tensor, grad_hidden: Tensor, grad_weight: Tensor) -> tuple[Tensor, Tensor]:
    return scaled(grad, grad_hidden, grad_weight)


@_scale.register_fake
def _(grad: Tensor, grad_hidden: Tensor, grad_weight: Tensor) -> tuple[Tensor, Tensor]:
    return torch.empty_like(grad_hidden), torch.empty_like(grad_weight)


def _keep(ctx, inputs, output) -> None:
    # Otherwise autograd fills a tensor of zeros for every output, the two gradients included.
    ctx.set_materialize_grads(False)
    ctx.needed = inputs[-2:]
    ctx.save_for_backward(*output[-2:])


def _backward(ctx, grad: Tensor | None, *_) -> tuple:
    nothing = (None,) * 16
    if grad is None:
        return None, None, *nothing
    scale = scaled_in_place if frees_graph() else _scale
    grads = scale(grad, *ctx.saved_tensors)
    return *(g if needed else None for g, needed in zip(grads, ctx.needed, strict=True)), *nothing


_forward.register_autograd(_backward, setup_context=_keep)


def linear_policy_loss(
    hidden: Tensor,
    weight: Tensor,
    labels: Tensor,
    *,
    old_logps: Tensor | None,
    advantages: Tensor,
    weights: Tensor,
    ref_logps: Tensor | None = None,
    objective: str = "clip",
    clip_low: float = 0.2,
    clip_high: float = 0.2,
    kl_weight: float = 0.0,
    entropy_weight: float = 0.0,
    temperature: float = 1.0,
    chunk: int | None = None,
    form: str = "auto",
) -> LinearPolicyLoss:
    """Sum over the kept rows of a weight times a clipped policy gradient's loss.

    Differentiable once by hidden and weight: a second derivative raises, and needs the reference.
    All else counts as constant. Masked rows cost nothing, whatever the other tensors hold there.

    Args:
        hidden: [N, D], bf16, fp16, fp32 or fp64.
        weight: [V, D], dtype of hidden; its gradient is added up in fp32 (fp64 for fp64).
        labels: [N] int64, the sampled tokens; IGNORE_INDEX drops a row.
        old_logps: [N], log-probabilities that the ratio is taken to; None: the current ones, so
            that the ratio is 1 and the gradient that of REINFORCE.
        advantages: [N].
        weights: [N], factor on each row's loss: what it is divided by, importance corrections.
        ref_logps: [N], log-probabilities under the reference model.
        objective: "clip" or "cispo".
        clip_low, clip_high: the ratio's bounds are 1 - clip_low and 1 + clip_high.
        kl_weight: factor on the k3 estimate of the divergence from the reference.
        entropy_weight: factor on the entropy, which is subtracted.
        temperature: the logits are divided by it, as they were when the tokens were sampled.
        chunk: rows at a time; None chooses by vocabulary and device.
        form: "auto", "triton" or "torch".
    Returns:
        fp32 (fp64 for fp64); under autocast the product runs in its dtype.
    Raises:
        ConfigError: a label is neither a token nor IGNORE_INDEX, shapes do not fit, a setting is
            out of range, kl_weight has no ref_logps, or form cannot be had.
    """
    op = "linear_policy_loss"
    check(op, hidden, weight, labels, chunk)
    check_temperature(op, temperature)
    given = {"old_logps": old_logps, "advantages": advantages, "weights": weights}
    check_rows(op, hidden, **given, ref_logps=ref_logps)
    check_policy(objective, clip_low, clip_high, kl_weight, ref_logps is not None)
    constants = (None if t is None else t.detach() for t in (*given.values(), ref_logps))
    settings = (clip_low, clip_high, kl_weight, entropy_weight, 1 / temperature)
    grad = torch.is_grad_enabled()
    *fields, _, _ = _forward(
        hidden,
        weight,
        labels,
        *constants,
        objective,
        *(float(value) for value in settings),
        chunk,
        product_dtype(hidden),
        form,
        grad and hidden.requires_grad,
        grad and weight.requires_grad,
    )
    return LinearPolicyLoss(fields[0], *(field.detach() for field in fields[1:]))
