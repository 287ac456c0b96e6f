"""A feed-forward of experts, of which a router takes one a token; its logits are kept small."""

from collections.abc import Callable

import torch
from torch import Tensor, nn

from plm.batch import LossSum
from plm.model.common import flops
from plm.model.context import Context
from plm.model.mlp.ungated import Ungated


class Router(nn.Module):
    def __init__(
        self,
        hidden_size: int,
        *,
        experts: int,
        intermediate_size: int,
        weight: float,
        activation: Callable[[], nn.Module],
        linear: Callable[..., nn.Module],
    ) -> None:
        super().__init__()
        self.weight = weight
        self.router = linear(hidden_size, experts, "router")
        self.experts = nn.ModuleList(
            Ungated(
                hidden_size,
                intermediate_size=intermediate_size,
                activation=activation,
                linear=linear,
            )
            for _ in range(experts)
        )

    def forward(self, hidden: Tensor, context: Context) -> Tensor:
        logits = self.router(hidden)
        size = logits.logsumexp(-1).square().sum() * self.weight
        context.add_loss("router_z", LossSum(size, torch.tensor(logits[..., 0].numel())))
        share, chosen = logits.softmax(-1).max(-1, keepdim=True)
        out = torch.zeros_like(hidden)
        for index, expert in enumerate(self.experts):
            out = out + expert(hidden, context) * share * (chosen == index)
        return out

    def flops_per_token(self, seq_len: int) -> float:
        return sum(flops(part, seq_len) for part in (self.router, *self.experts))
