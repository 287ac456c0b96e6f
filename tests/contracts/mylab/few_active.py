"""A penalty on what the feed-forwards' activations let through, switched on by tokens."""

import torch

from plm.batch import LossSum
from plm.model.context import Context


class FewActive:
    reads = ("layers.*.mlp.activation",)

    def __init__(self, *, weight: float, from_tokens: int) -> None:
        self.weight, self.from_tokens = weight, from_tokens

    def __call__(self, context: Context, tokens_seen: int) -> LossSum:
        weight = self.weight if tokens_seen >= self.from_tokens else 0.0
        total = sum(tap.abs().mean(-1).sum() for tap in context.taps.values())
        return LossSum(weight * total, torch.tensor(context.positions.numel()))
