"""A loss of log-probabilities and entropies in plain torch, with the full logits."""

from collections.abc import Callable
from typing import NamedTuple

from torch import Tensor

from plm.batch import IGNORE_INDEX
from plm.kernels.reference.linear_logprob import linear_logprob

Each = Callable[[Tensor, Tensor, slice], Tensor]
"""`(logps [n], entropy [n], which kept rows) -> [n]`, wide; of each row by itself."""


class LinearLoss(NamedTuple):
    """Of the K rows whose label is not masked, fp32 (fp64 for fp64).

    Attributes:
        loss: scalar, the sum; with gradients to hidden and weight.
        logps: [K], log-probability of the label, nats, without a gradient.
        entropy: [K], of the row's distribution, nats, without a gradient.
    """

    loss: Tensor
    logps: Tensor
    entropy: Tensor


def linear_loss(
    hidden: Tensor, weight: Tensor, labels: Tensor, each: Each, *, temperature: float = 1.0
) -> LinearLoss:
    """Sum of a loss of each kept row's log-probability and entropy.

    Args:
        hidden: [N, D].
        weight: [V, D], dtype of hidden.
        labels: [N] int64; IGNORE_INDEX drops a row.
        each: the loss of some rows; what a row has may not depend on others.
        temperature: the logits are divided by it; logps and entropy are those of what is left.
    """
    found = linear_logprob(hidden, weight, labels, temperature=temperature)
    kept = labels != IGNORE_INDEX
    logps, entropy = found.logps[kept], found.entropy[kept]
    total = each(logps, entropy, slice(0, len(logps))).sum()
    return LinearLoss(total, logps.detach(), entropy.detach())
