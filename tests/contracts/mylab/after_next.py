"""A head that predicts the token after the next one."""

from collections.abc import Callable

import torch
from torch import Tensor, nn

from plm.batch import IGNORE_INDEX, LossSum
from plm.loss.cross_entropy import cross_entropy
from plm.model.context import Context


class AfterNext(nn.Module):
    def __init__(
        self,
        hidden_size: int,
        *,
        vocab_size: int,
        weight: float,
        linear: Callable[..., nn.Module],
        norm: Callable[[int], nn.Module],
    ) -> None:
        super().__init__()
        self.weight, self.vocab_size = weight, vocab_size
        self.proj = linear(hidden_size, hidden_size, "after_next")
        self.norm = norm(hidden_size)

    def forward(
        self, hidden: Tensor, head_weight: Tensor, labels: Tensor, context: Context
    ) -> LossSum:
        later = torch.full_like(labels, IGNORE_INDEX)
        later[:, :-1] = labels[:, 1:]
        later[:, :-1][context.positions[:, 1:] == 0] = IGNORE_INDEX
        found = cross_entropy(
            self.norm(self.proj(hidden)), head_weight, later, kernels=context.kernels
        )
        # The positions, not the kept labels: a count that the batch's shape alone decides.
        return LossSum(found.total * self.weight, torch.tensor(labels.numel()))

    def flops_per_token(self, seq_len: int) -> float:
        hidden_size = self.proj.in_features
        return 2.0 * hidden_size * (hidden_size + self.vocab_size)
