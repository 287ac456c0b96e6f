"""Head product and cross-entropy in plain torch, with the full logits."""

from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor

from plm.batch import IGNORE_INDEX


class LinearCrossEntropy(NamedTuple):
    """Sums over the kept rows.

    Attributes:
        total: scalar, `ce_weight * ce + z_weight * z`; only this carries a gradient.
        count: scalar, int64, number of kept rows.
        ce: scalar, detached, sum of the cross-entropies in nats.
        z: scalar, detached, sum of the squared log-sum-exps.
    """

    total: Tensor
    count: Tensor
    ce: Tensor
    z: Tensor


def linear_cross_entropy(
    hidden: Tensor,
    weight: Tensor,
    labels: Tensor,
    *,
    ce_weight: float = 1.0,
    z_weight: float = 0.0,
) -> LinearCrossEntropy:
    """Cross-entropy of `hidden @ weight.T` and the squared log-partition, summed over kept rows.

    Args:
        hidden: [N, D].
        weight: [V, D], dtype of hidden.
        labels: [N] int64; IGNORE_INDEX drops a row.
        ce_weight: factor on the cross-entropy in the total.
        z_weight: factor on the squared log-sum-exp in the total.
    Returns:
        Sums in fp32 (fp64 for fp64); under autocast the product runs in its dtype.
    """
    wide = torch.float64 if hidden.dtype == torch.float64 else torch.float32
    logits = F.linear(hidden, weight).to(wide)
    kept = labels != IGNORE_INDEX
    log_partition = torch.logsumexp(logits, -1)
    ce = F.cross_entropy(logits, labels, ignore_index=IGNORE_INDEX, reduction="sum")
    z = (log_partition.square() * kept).sum()
    return LinearCrossEntropy(ce_weight * ce + z_weight * z, kept.sum(), ce.detach(), z.detach())
