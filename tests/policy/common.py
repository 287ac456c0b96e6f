"""Made-up tokens of made-up rollouts, each drawn from logits of its own."""

from collections.abc import Callable, Sequence
from functools import partial
from typing import NamedTuple

import torch
from torch import Tensor

from plm.advantage.common import Scored
from plm.policy.common import Surrogate, Tokens

VOCABULARY = 7


class Made(NamedTuple):
    """Logits [N, V], a leaf, the labels [N] drawn from them, and the tokens that they make."""

    logits: Tensor
    labels: Tensor
    tokens: Tokens


def made(
    lengths: Sequence[int],
    *,
    moved: float = 0.5,
    advantages: Tensor | None = None,
    dtype: torch.dtype = torch.float64,
) -> Made:
    """Rollouts of these lengths, `moved` nats or so away from the old policy."""
    rollout = torch.arange(len(lengths)).repeat_interleave(torch.tensor(lengths, dtype=torch.int64))
    count = len(rollout)
    logits = torch.randn(count, VOCABULARY, dtype=dtype, requires_grad=True)
    labels = torch.randint(VOCABULARY, (count,))
    worth = torch.randn(len(lengths), dtype=dtype) if advantages is None else advantages.to(dtype)
    old = torch.randn(count, dtype=dtype) * moved
    tokens = again(logits, labels, worth[rollout], rollout, len(lengths))
    return Made(logits, labels, tokens._replace(old_logps=tokens.logps.detach() + old))


def again(
    logits: Tensor, labels: Tensor, advantages: Tensor, rollout: Tensor, number: int
) -> Tokens:
    """Tokens on policy: the old log-probabilities are the present ones."""
    spread = logits.log_softmax(1)
    logps = spread.gather(1, labels[:, None])[:, 0]
    entropy = -(spread.exp() * spread).sum(1)
    return Tokens(logps, entropy, logps.detach(), advantages, rollout, number)


def at(ratio: Sequence[float], advantages: Sequence[float]) -> Tokens:
    """One rollout of tokens whose ratios are given; the log-probabilities are leaves."""
    old = torch.linspace(-2, -1, len(ratio), dtype=torch.float64)
    logps = (old + torch.tensor(ratio, dtype=torch.float64).log()).requires_grad_()
    worth = torch.tensor(advantages, dtype=torch.float64)
    rollout = torch.zeros(len(ratio), dtype=torch.int64)
    return Tokens(logps, torch.ones_like(old), old, worth, rollout, 1)


def part(tokens: Tokens, first: int, last: int) -> Tokens:
    """The rollouts from the first up to the last, as a micro-batch of their own."""
    kept = (tokens.rollout >= first) & (tokens.rollout < last)
    columns = (column[kept] for column in tokens[:4])
    return Tokens(*columns, tokens.rollout[kept] - first, last - first)


def lengths_of(tokens: Tokens) -> Tensor:
    return torch.bincount(tokens.rollout, minlength=tokens.number)


def total(found: Surrogate, tokens: Tokens, weights: Tensor) -> Tensor:
    """A step's loss: each token's value times its rollout's weight."""
    return (found.loss * weights[tokens.rollout]).sum()


def gradients(*losses: Tensor, by: Tensor | tuple[Tensor, ...]) -> list[tuple[Tensor, ...]]:
    """Of each loss by the same leaves, which they may share a graph to."""
    return [torch.autograd.grad(loss, by, retain_graph=True) for loss in losses]


def slopes(loss: Callable[[Tokens], Surrogate], tokens: Tokens) -> list[float]:
    """Gradient of the losses' sum by each log-probability."""
    return gradients(loss(tokens).loss.sum(), by=tokens.logps)[0][0].tolist()


def scored(rewards: Sequence[Sequence[float]], size: int, weights: Sequence[float]) -> Scored:
    """Rewards of each rollout by kind, in groups of one size."""
    kinds = torch.tensor(rewards, dtype=torch.float64)
    groups = torch.arange(len(kinds)) // size
    return Scored(kinds, torch.tensor(weights, dtype=torch.float64), groups)


def with_nonsense(method: partial) -> partial:
    """The same with a setting that there is not."""
    return partial(method.func, **{**method.keywords, "nonsense": 1})
