"""Log-probabilities that a model gives to tokens that stand there already, in ragged batches."""

from collections.abc import Sequence
from typing import Any, NamedTuple

import torch
from torch import Tensor

from plm.batch import IGNORE_INDEX, LossSum
from plm.kernels import pick
from plm.model.context import Context


class Scored(NamedTuple):
    """Of one row's scored tokens.

    Attributes:
        logps: [n] fp64, on the CPU, in nats.
        greedy: [n] bool: was the token the most likely one.
    """

    logps: Tensor
    greedy: Tensor


@torch.no_grad()
def score(
    subject: Any, rows: Sequence[tuple[Sequence[int], int]], *, width: int | None = None
) -> list[Scored]:
    """Score the last tokens of each row, given all before them.

    Args:
        subject: the model; `rows` of it go through at a time, sorted by length, padded on the
            right, which no earlier position can see.
        rows: (ids, n): at least n + 1 ids and at most max_len + 1, the last n of which are scored.
        width: pad every batch to this many positions; None: to its longest row.
    Returns:
        One a row, in the order of the rows.
    """
    order = sorted(range(len(rows)), key=lambda i: -len(rows[i][0]))
    found: list[Scored | None] = [None] * len(rows)
    for low in range(0, len(order), subject.rows):
        chosen = order[low : low + subject.rows]
        for index, scored in zip(chosen, _batch(subject, [rows[i] for i in chosen], width),
                                 strict=True):  # fmt: skip
            found[index] = scored
    return found  # type: ignore[return-value]


def _batch(
    subject: Any, rows: Sequence[tuple[Sequence[int], int]], width: int | None
) -> list[Scored]:
    longest = width or max(len(ids) for ids, _ in rows) - 1
    tokens = torch.zeros(len(rows), longest, dtype=torch.int64)
    labels = torch.full_like(tokens, IGNORE_INDEX)
    for row, (ids, n) in enumerate(rows):
        assert 1 <= n < len(ids) <= longest + 1
        text = torch.tensor(ids, dtype=torch.int64)
        tokens[row, : len(ids) - 1] = text[:-1]
        labels[row, len(ids) - 1 - n : len(ids) - 1] = text[-n:]
    positions = torch.arange(longest, device=subject.device).expand(len(rows), -1)
    with subject.device_context():
        logps, top = token_logps(
            subject.model,
            tokens.to(subject.device),
            labels.to(subject.device),
            Context(positions=positions, rope_theta=subject.rope_theta),
        )
    kept = labels != IGNORE_INDEX
    greedy = top.cpu() == labels
    return [Scored(logps.cpu()[r][kept[r]], greedy[r][kept[r]]) for r in range(len(rows))]


def token_logps(
    model: Any, tokens: Tensor, labels: Tensor, context: Context
) -> tuple[Tensor, Tensor]:
    """Log-probability of each label, and the most likely token in its place.

    Args:
        model: a Transformer; nothing is changed and nothing kept for a backward.
        tokens, labels: [B, T] int64; IGNORE_INDEX drops a position.
        context: of this forward.
    Returns:
        [B, T] fp64, 0 where dropped, and [B, T] int64, IGNORE_INDEX where dropped.
    """
    found: list[Tensor] = []

    # As a loss, since the head may be whole only inside the root's forward.
    def keep(hidden: Tensor, head_weight: Tensor, wanted: Tensor, *, kernels: str) -> LossSum:
        flat = hidden.reshape(-1, hidden.shape[-1])
        one = pick(kernels).linear_logprob(flat, head_weight, wanted.reshape(-1))
        found.extend([one.logps.view(wanted.shape), one.top1.view(wanted.shape)])
        return LossSum(-one.logps.sum(), (wanted != IGNORE_INDEX).sum())

    with torch.no_grad():
        model(tokens, context=context, labels=labels, losses={"keep": keep})
    return found[0].double(), found[1]
