"""A projection as the product of two thin ones, for chosen roles."""

from torch import Tensor, nn


class LowRank(nn.Module):
    def __init__(self, in_features: int, out_features: int, rank: int) -> None:
        super().__init__()
        self.thin = nn.Linear(in_features, rank, bias=False)
        self.wide = nn.Linear(rank, out_features, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        return self.wide(self.thin(x))

    def init_weights(self, generator, std: float) -> None:
        """So that the product, not each factor, has the asked spread."""
        for part in (self.thin, self.wide):
            nn.init.normal_(part.weight, generator=generator)
            part.weight.data *= (std / self.thin.out_features**0.5) ** 0.5


def low_rank(
    in_features: int, out_features: int, role: str, *, rank: int, roles: list[str]
) -> nn.Module:
    if role in roles:
        return LowRank(in_features, out_features, rank)
    return nn.Linear(in_features, out_features, bias=False)
