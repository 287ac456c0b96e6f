"""Swaps every feed-forward for a wider one that gives the same."""

import torch
from torch import nn


def widen(
    model: nn.Module, optimizer: torch.optim.Optimizer | None, tokens_seen: int, *, by: int
) -> None:
    for layer in model.layers:
        up, down = layer.mlp.up_proj, layer.mlp.down_proj
        wide = up.out_features + by
        options = {"bias": False, "device": up.weight.device, "dtype": up.weight.dtype}
        new_up = nn.Linear(up.in_features, wide, **options)
        new_down = nn.Linear(wide, down.out_features, **options)
        # A replay must do the same: what is drawn depends on the arguments alone.
        generator = torch.Generator().manual_seed(tokens_seen)
        with torch.no_grad():
            new_up.weight.copy_(torch.randn(new_up.weight.shape, generator=generator))
            new_up.weight[: up.out_features] = up.weight
            new_down.weight.zero_()
            new_down.weight[:, : up.out_features] = down.weight
        new_up.role, new_down.role = up.role, down.role
        layer.mlp.up_proj, layer.mlp.down_proj = new_up, new_down
