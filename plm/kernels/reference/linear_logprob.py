"""Log-probability of the label, entropy and best token in plain torch, with the full logits."""

from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor

from plm.batch import IGNORE_INDEX


class LinearLogprob(NamedTuple):
    """Of every row; 0, 0 and IGNORE_INDEX where its label is masked.

    Attributes:
        logps: [N], fp32 (fp64 for fp64), log-probability of the label.
        entropy: [N], as logps, of the row's distribution, in nats.
        top1: [N] int64, the most probable token.
    """

    logps: Tensor
    entropy: Tensor
    top1: Tensor


def linear_logprob(
    hidden: Tensor, weight: Tensor, labels: Tensor, *, temperature: float = 1.0
) -> LinearLogprob:
    """Log-probabilities of the labels under softmax(hidden @ weight.T / temperature).

    Args:
        hidden: [N, D].
        weight: [V, D], dtype of hidden.
        labels: [N] int64; IGNORE_INDEX drops a row.
        temperature: the logits are divided by it; logps and entropy are those of what is left.
    """
    wide = torch.float64 if hidden.dtype == torch.float64 else torch.float32
    log_p = torch.log_softmax(F.linear(hidden, weight).to(wide) / temperature, -1)
    kept = labels != IGNORE_INDEX
    logps = log_p.gather(1, labels.where(kept, 0)[:, None])[:, 0]
    entropy = -(log_p.exp() * log_p).sum(-1)
    return LinearLogprob(
        logps.where(kept, 0), entropy.where(kept, 0), log_p.argmax(-1).where(kept, IGNORE_INDEX)
    )
