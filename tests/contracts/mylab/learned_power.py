"""relu(x) to a power that each channel learns."""

import torch
from torch import Tensor, nn

from plm.model.context import Context


class LearnedPower(nn.Module):
    fusible = False
    sparse = True

    def __init__(self, *, size: int) -> None:
        super().__init__()
        self.power = nn.Parameter(torch.full((size,), 2.0))

    def init_weights(self, generator: torch.Generator, std: float) -> None:
        nn.init.constant_(self.power, 2.0)

    def forward(self, x: Tensor, context: Context) -> Tensor:
        return torch.where(x > 0, x.clamp(min=1e-6) ** self.power, 0)
