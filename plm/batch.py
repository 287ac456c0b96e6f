"""What one micro-batch holds, and the letters that shapes are written in.

Legend: B sequences, T positions, S packed tokens, V vocabulary, D hidden, F feed-forward, H heads,
K key size, U value size, C latent rank, R rotary size, G completions a prompt, P parts of pairs a
row, L layers.
"""

from dataclasses import dataclass, field, fields
from typing import NamedTuple

import torch
from torch import Tensor

IGNORE_INDEX = -100
"""Label of a position that takes no part in a loss."""


class LossSum(NamedTuple):
    """A loss before its division: the stage divides once, by the count of the whole global batch.

    Attributes:
        total: scalar, fp32, sum over the kept positions, in nats unless the loss says otherwise.
        count: scalar, int64, number of kept positions.
    """

    total: Tensor
    count: Tensor


@dataclass
class Batch:
    """One micro-batch of one rank; all micro-batches of a step share the step's numbers.

    Attributes:
        tokens: [B, T] int64.
        labels: [B, T] int64; IGNORE_INDEX drops a position.
        positions: [B, T] int64, restarting at each document where documents are isolated.
        doc_ids: [B, T] int64, which document of its row a token belongs to, from 0; None: one each.
        cu_seqlens: [N] int32, start of each document in the flattened [B * T] tokens, ending with
            B * T and padded with it to a fixed N; None without isolation.
        step: optimizer step this belongs to, from 0.
        tokens_seen: tokens of the run before this step.
        rows_in_step: rows of the whole global batch, over all ranks.
        kept_in_step: labels kept in this rank's share of the global batch; of pairs their parts.
        first, last: is it the step's first or last micro-batch on this rank.
        first_row: index in the global batch of its first row.
        phase: name of the phase.
        source_ids: [B] int64, index into the phase's sources.
        extras: what a source adds, by name: `parts` and `shown` [B, P] where there are pairs.
    """

    tokens: Tensor
    labels: Tensor
    positions: Tensor
    doc_ids: Tensor | None = None
    cu_seqlens: Tensor | None = None
    step: int = 0
    tokens_seen: int = 0
    rows_in_step: int = 0
    kept_in_step: int = 0
    first: bool = True
    last: bool = True
    first_row: int = 0
    phase: str = ""
    source_ids: Tensor | None = None
    extras: dict[str, Tensor] = field(default_factory=dict)

    def to(self, device: torch.device | str, non_blocking: bool = False) -> "Batch":
        """The same batch with every tensor on `device`."""
        moved = {}
        for item in fields(self):
            value = getattr(self, item.name)
            if isinstance(value, Tensor):
                value = value.to(device, non_blocking=non_blocking)
            moved[item.name] = value
        moved["extras"] = {
            name: value.to(device, non_blocking=non_blocking) for name, value in self.extras.items()
        }
        return Batch(**moved)
