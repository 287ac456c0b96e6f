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

from plm.batch import IGNORE_INDEX
from plm.errors import ConfigError
from plm.kernels.reference.linear_cross_entropy import LinearCrossEntropy

# On a CPU a block of logits must stay below 32 MiB, from where glibc gets it anew from the system
# each time, page by page; a GPU wants fewer launches and fewer passes over the weight's gradient.
_CPU_LOGITS = 2**22
_GPU_LOGITS = 2**27
_CHUNK_RANGE = (128, 8192)


def _wide(dtype: torch.dtype) -> torch.dtype:
    return torch.float64 if dtype == torch.float64 else torch.float32


def _default_chunk(vocab_size: int, device: str) -> int:
    budget = _CPU_LOGITS if device == "cpu" else _GPU_LOGITS
    low, high = _CHUNK_RANGE
    return max(low, min(high, budget // max(1, vocab_size) // low * low))


def _rows_pass(
    rows: Tensor, weight: Tensor, labels: Tensor, factors: tuple, chunk: int, grads: tuple
) -> tuple[Tensor, Tensor]:
    """Log-sum-exp and label's logit of every row, [M] each; fills the gradients that are given.

    Args:
        rows, weight: [M, D] and [V, D] in the dtype of the product.
        labels: [M], none of them IGNORE_INDEX.
        factors: (ce_weight, z_weight).
        grads: [M, D] or None to be overwritten, [V, D] or None, in the wide dtype, to be added to.
    """
    ce_weight, z_weight = factors
    grad_rows, grad_weight = grads
    wide = _wide(rows.dtype)
    partition = rows.new_empty(rows.shape[0], dtype=wide)
    picked = torch.empty_like(partition)
    same = rows.dtype == wide
    size = min(chunk, rows.shape[0])
    buffer = rows.new_empty(size, weight.shape[0]) if same else None
    for start in range(0, rows.shape[0], chunk):
        block, span = rows[start : start + chunk], slice(start, start + chunk)
        target = labels[span, None]
        logits = torch.mm(block, weight.t(), out=buffer[: len(block)] if same else None).to(wide)
        picked[span] = logits.gather(1, target)[:, 0]
        highest = logits.amax(-1, keepdim=True)
        exponentials = logits.sub_(highest).exp_()
        total = exponentials.sum(-1, keepdim=True)
        log_sum = highest + total.log()
        partition[span] = log_sum[:, 0]
        if grad_rows is None and grad_weight is None:
            continue
        slope = exponentials.mul_((ce_weight + 2 * z_weight * log_sum) / total)
        slope.scatter_add_(1, target, torch.full_like(log_sum, -ce_weight))
        slope = slope.to(rows.dtype)
        if grad_rows is not None:
            torch.mm(slope, weight, out=grad_rows[span])
        if grad_weight is not None and same:
            grad_weight.addmm_(slope.t(), block)
        elif grad_weight is not None:
            grad_weight.add_(torch.mm(slope.t(), block))
    return partition, picked


@torch.library.custom_op("plm::linear_cross_entropy", mutates_args=())
def _forward(
    hidden: Tensor,
    weight: Tensor,
    labels: Tensor,
    ce_weight: float,
    z_weight: float,
    chunk: int,
    product_dtype: torch.dtype,
    need_hidden: bool,
    need_weight: bool,
) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor, Tensor]:
    """Total, count, ce, z, gradient of hidden, gradient of weight (empty where not needed)."""
    kept = (labels != IGNORE_INDEX).nonzero()[:, 0]
    whole = kept.numel() == labels.numel()
    rows = hidden if whole else hidden.index_select(0, kept)
    rows, matrix = rows.to(product_dtype), weight.to(product_dtype)
    grad_rows = torch.empty_like(rows) if need_hidden else None
    wide = _wide(product_dtype)
    grad_weight = weight.new_zeros(weight.shape, dtype=wide) if need_weight else None
    # The products' dtype is chosen by the caller; autocast must not choose again in here.
    with torch.autocast(hidden.device.type, enabled=False):
        partition, picked = _rows_pass(
            rows,
            matrix,
            labels if whole else labels.index_select(0, kept),
            (ce_weight, z_weight),
            chunk,
            (grad_rows, grad_weight),
        )
    ce, z = (partition - picked).sum(), partition.square().sum()
    grad_hidden = hidden.new_empty(0)
    if grad_rows is not None:
        grad_hidden = grad_rows.to(hidden.dtype)
        if not whole:
            grad_hidden = torch.zeros_like(hidden).index_copy_(0, kept, grad_hidden)
    return (
        ce_weight * ce + z_weight * z,
        labels.new_full((), kept.numel()),
        ce,
        z,
        grad_hidden,
        weight.new_empty(0) if grad_weight is None else grad_weight.to(weight.dtype),
    )


@_forward.register_fake
def _(hidden, weight, labels, ce_weight, z_weight, chunk, product_dtype, need_hidden, need_weight):
    total = hidden.new_empty((), dtype=_wide(product_dtype))
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
    return grad_hidden * grad.to(grad_hidden.dtype), grad_weight * grad.to(grad_weight.dtype)


@_scale.register_fake
def _(grad: Tensor, grad_hidden: Tensor, grad_weight: Tensor) -> tuple[Tensor, Tensor]:
    return torch.empty_like(grad_hidden), torch.empty_like(grad_weight)


def _keep(ctx, inputs, output) -> None:
    # Otherwise autograd fills a tensor of zeros for every output, the two gradients included.
    ctx.set_materialize_grads(False)
    ctx.needed = inputs[7:9]
    ctx.save_for_backward(*output[4:])


def _backward(ctx, grad: Tensor | None, *_) -> tuple:
    nothing = (None,) * 7
    if grad is None:
        return None, None, *nothing
    grads = _scale(grad, *ctx.saved_tensors)
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
    Returns:
        Sums in fp32 (fp64 for fp64); under autocast the product runs in its dtype.
    Raises:
        ConfigError: chunk is not positive.
    """
    device = hidden.device.type
    if chunk is None:
        chunk = _default_chunk(weight.shape[0], device)
    if chunk < 1:
        raise ConfigError(f"chunk={chunk} of linear_cross_entropy must be at least 1 row")
    autocast = torch.is_autocast_enabled(device) and hidden.dtype != torch.float64
    product_dtype = torch.get_autocast_dtype(device) if autocast else hidden.dtype
    grad = torch.is_grad_enabled()
    total, count, ce, z, _, _ = _forward(
        hidden,
        weight,
        labels,
        float(ce_weight),
        float(z_weight),
        chunk,
        product_dtype,
        grad and hidden.requires_grad,
        grad and weight.requires_grad,
    )
    return LinearCrossEntropy(total, count, ce.detach(), z.detach())
