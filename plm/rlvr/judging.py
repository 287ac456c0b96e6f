"""From the rewards of rollouts to their advantages."""

import math
from collections.abc import Callable, Mapping

import torch
from torch import Tensor

from plm.advantage.common import Scored, needs_values
from plm.rlvr.prompts import PromptSet
from plm.rlvr.rollouts import Drawn, Rollout


def judge(
    drawn: Drawn,
    prompts: PromptSet,
    advantage: Callable[[Scored], Tensor],
    *,
    divergence: Callable[..., Tensor] | None = None,
    weight: float = 0.0,
    lam: float | None = None,
) -> None:
    """Put its advantage into each rollout, and into each token where a value model gives it.

    Args:
        drawn: with rewards, and values for an advantage that needs them; changed in place.
        prompts: whose sources weigh the rewards.
        advantage: of configs/advantage.
        divergence: is taken from the reward, summed up over the rollout's tokens; None: it is not.
            Where tokens have advantages of their own each one's is taken at its place.
        weight: factor on it.
        lam: λ of the returns; None: that of the advantages.
    """
    rollouts = drawn.rollouts
    if needs_values(advantage):
        _judge_tokens(rollouts, advantage, divergence, weight, lam)
        return
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
    return float(_each(divergence, one).sum())


def _each(divergence: Callable[..., Tensor], one: Rollout) -> Tensor:
    """[n] fp64, of each token that the policy chose."""
    old, reference = _chosen(one, one.old), _chosen(one, one.reference)
    return divergence(old, reference, old)


def _chosen(one: Rollout, values: list[float]) -> Tensor:
    """[n] fp64: those of the tokens that the policy chose."""
    return torch.tensor(values, dtype=torch.float64)[torch.tensor(one.learn, dtype=torch.bool)]


def _judge_tokens(
    rollouts: list[Rollout],
    advantage: Callable[..., tuple[Tensor, Tensor]],
    divergence: Callable[..., Tensor] | None,
    weight: float,
    lam: float | None,
) -> None:
    """Advantages and returns of single tokens; the reward is earned by the last one."""
    rewards = []
    for one in rollouts:
        earned = torch.zeros(one.chosen, dtype=torch.float64)
        earned[-1:] = one.reward
        if divergence is not None:
            taken = _each(divergence, one)
            earned = earned - weight * taken
            one.told["divergence"] = float(taken.sum())
            one.reward -= weight * one.told["divergence"]
        rewards.append(earned)
    owner = torch.arange(len(rollouts)).repeat_interleave(torch.tensor([len(r) for r in rewards]))
    given = torch.cat(rewards), torch.cat([_chosen(o, o.values) for o in rollouts]), owner
    advantages, returns = advantage(*given)
    if lam is not None:
        returns = advantage(*given, lam=lam)[1]
    for index, one in enumerate(rollouts):
        mine = owner == index
        one.advantages = one.spread(advantages[mine].tolist())
        one.returns = one.spread(returns[mine].tolist())
        one.advantage = float(advantages[mine].mean()) if one.chosen else 0.0
