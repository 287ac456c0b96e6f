"""From the rewards of rollouts to their advantages."""

import math
from collections.abc import Callable, Mapping

import torch
from torch import Tensor

from plm.advantage.common import Scored
from plm.rlvr.prompts import PromptSet
from plm.rlvr.rollouts import Drawn, Rollout


def judge(
    drawn: Drawn,
    prompts: PromptSet,
    advantage: Callable[[Scored], Tensor],
    *,
    divergence: Callable[..., Tensor] | None = None,
    weight: float = 0.0,
) -> None:
    """Put its advantage into each rollout.

    Args:
        drawn: with rewards; changed in place.
        prompts: whose sources weigh the rewards.
        advantage: of configs/advantage.
        divergence: is taken from the reward, summed up over the rollout's tokens; None: it is not.
        weight: factor on it.
    """
    rollouts = drawn.rollouts
    kinds = kinds_of(rollouts, prompts)
    columns = {key: place for place, key in enumerate(kinds)}
    table = torch.full((len(rollouts), len(columns) + 1), math.nan, dtype=torch.float64)
    for row, one in enumerate(rollouts):
        for kind, value in one.rewards.items():
            table[row, columns[one.source, kind]] = value
        if divergence is not None:
            taken = _summed(divergence, one)
            one.told["divergence"] = taken
            one.reward -= weight * taken
            table[row, -1] = -taken
    weights = torch.tensor([*kinds.values(), weight], dtype=torch.float64)
    groups = torch.arange(len(rollouts)) // drawn.group
    if divergence is None:
        table, weights = table[:, :-1], weights[:-1]
    found = advantage(Scored(table, weights, groups))
    for one, value in zip(rollouts, found.tolist(), strict=True):
        one.advantage = value


def kinds_of(rollouts: list[Rollout], prompts: PromptSet) -> Mapping[tuple[str, str], float]:
    """Weight of each kind of reward of the sources that occur."""
    names = sorted({one.source for one in rollouts})
    return {
        (name, kind): weight
        for name in names
        for kind, weight in prompts.sources[name].weights.items()
    }


def _summed(divergence: Callable[..., Tensor], one: Rollout) -> float:
    learn = torch.tensor(one.learn, dtype=torch.bool)
    old, reference = (torch.tensor(v, dtype=torch.float64)[learn] for v in (one.old, one.reference))
    return float(divergence(old, reference, old).sum())
