"""FLOPs of the ops that multiply matrices, for torch's FLOP counter, which cannot look inside.

As torch counts its own: every product in full, masked rows and causal halves included, and of a
backward the products of the mathematics, not those that are computed again.
"""

from typing import Any

import torch
from torch.utils.flop_counter import register_flop_formula

ops = torch.ops.plm


def _product(*sizes: int) -> int:
    total = 2
    for size in sizes:
        total *= size
    return total


def _head(hidden: Any, weight: Any, needed: tuple[bool, ...]) -> int:
    """Logits, and a product for each gradient that is needed."""
    return _product(*hidden, weight[0]) * (1 + sum(needed))


@register_flop_formula(ops.linear_cross_entropy)
def _(hidden, weight, labels, ce, z, chunk, dtype, need_hidden, need_weight, *_, **__) -> int:
    return _head(hidden, weight, (need_hidden, need_weight))


@register_flop_formula(ops.linear_policy_loss)
def _(hidden, weight, *rest, **_) -> int:
    # The last two that are no strings: whether hidden's and weight's gradients are needed.
    needed = tuple(flag for flag in rest if isinstance(flag, bool))[-2:]
    return _head(hidden, weight, needed)


@register_flop_formula(ops.linear_logprob)
def _(hidden, weight, *_, **__) -> int:
    return _head(hidden, weight, ())


@register_flop_formula(ops.linear_logprob_backward)
def _(grad_logps, grad_entropy, hidden, weight, *rest, **_) -> int:
    needed = tuple(flag for flag in rest if isinstance(flag, bool))[-2:]
    return _product(*hidden, weight[0]) * sum(needed)


@register_flop_formula(ops.relu2_mlp)
def _(x, up, down, *_, **__) -> int:
    return 2 * _product(*x, up[0])


@register_flop_formula(ops.relu2_mlp_backward)
def _(grad, x, up, down, r, needed, *_, **__) -> int:
    inner = needed[0] or needed[1]
    return _product(*x, up[0]) * (inner + sum(needed))


def _scores(q: Any, kv: Any, k_rope: Any) -> tuple[int, int]:
    """Of the scores, and of the values they weigh."""
    batch, length, heads, key = q
    value = kv[-1] - (key - k_rope[-1])
    return tuple(_product(batch, heads, length, length, size) for size in (key, value))


@register_flop_formula(ops.mla_attention)
def _(q, kv, k_rope, *_, **__) -> int:
    return sum(_scores(q, kv, k_rope))


@register_flop_formula(ops.mla_attention_backward)
def _(grad, q, kv, k_rope, *_, **__) -> int:
    scores, values = _scores(q, kv, k_rope)
    # The scores once more, and two products for each of the forward's.
    return 3 * scores + 2 * values


@register_flop_formula(ops.mla_decode)
def _(q_latent, q_rope, latent, *_, **__) -> int:
    batch, heads, rank = q_latent
    return _product(batch, heads, latent[1], 2 * rank + q_rope[-1])
