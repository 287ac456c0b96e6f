"""From a batch's hidden states to the log-probabilities of its pairs' answers."""

import torch
from torch import Tensor

from plm.batch import IGNORE_INDEX
from plm.kernels import pick
from plm.preference.common import PairLogps


def pair_logps(
    hidden: Tensor,
    head_weight: Tensor,
    labels: Tensor,
    *,
    doc_ids: Tensor,
    parts: Tensor,
    shown: Tensor,
    kernels: str = "auto",
) -> PairLogps:
    """Log-probabilities of all parts of a batch, without the full logits.

    Part p of a row is its documents 2p, the better answer, and 2p + 1, the worse one.

    Args:
        hidden: [B, T, D].
        head_weight: [V, D], dtype of hidden.
        labels: [B, T] int64, shifted; IGNORE_INDEX where nothing of an answer is predicted.
        doc_ids: [B, T] int64.
        parts: [B, P] int64, numbers of the parts; below 0 behind a row's last one.
        shown: [B, P] int64, what each part's prompt shows.
        kernels: "auto" or "reference".
    Returns:
        N pairs, row by row, in the dtype that logits are summed up in: fp32, fp64 for fp64.
    """
    rows, places = parts.shape
    flat = labels.reshape(-1)
    found = pick(kernels).linear_logprob(hidden.reshape(-1, hidden.shape[-1]), head_weight, flat)
    # A last place of each row takes what stands behind its parts, which has no label.
    row = torch.arange(rows, device=labels.device)[:, None] * (2 * places + 1)
    sequence = (row + doc_ids.clamp(max=2 * places)).reshape(-1)
    there = parts >= 0

    def summed(values: Tensor) -> tuple[Tensor, Tensor]:
        sums = values.new_zeros(rows * (2 * places + 1)).index_add(0, sequence, values)
        both = sums.view(rows, -1)[:, :-1].reshape(rows, places, 2)[there]
        return both[:, 0], both[:, 1]

    chosen, rejected = summed(found.logps)
    chosen_tokens, rejected_tokens = summed((flat != IGNORE_INDEX).long())
    return PairLogps(chosen, rejected, chosen_tokens, rejected_tokens, shown[there])


def subset(logps: PairLogps, chosen: Tensor) -> PairLogps:
    """Those pairs that a [N] mask or index names."""
    return PairLogps(*(values[chosen] for values in logps))
