"""Log-probabilities of made-up parts."""

from collections.abc import Sequence

import torch
from torch import Tensor

from plm.preference.common import SHOWN, PairLogps


def drawn(kinds: Sequence[str], dtype: torch.dtype = torch.float64) -> tuple[PairLogps, PairLogps]:
    """Policy, with gradients, and reference of one random part of each kind given."""
    count = len(kinds)
    tokens = torch.randint(1, 30, (2, count))
    shown = torch.tensor([SHOWN.index(kind) for kind in kinds])
    logps = -torch.rand(4, count, dtype=dtype) * 2 * tokens.repeat(2, 1)
    policy, reference = (PairLogps(*logps[at : at + 2], *tokens, shown) for at in (0, 2))
    return with_gradients(policy), reference


def with_gradients(logps: PairLogps) -> PairLogps:
    """A copy whose log-probabilities are leaves."""
    chosen, rejected = (leaf.detach().clone().requires_grad_() for leaf in logps[:2])
    return logps._replace(chosen=chosen, rejected=rejected)


def at(distance: Sequence[float], kinds: Sequence[str]) -> tuple[PairLogps, PairLogps]:
    """Policy and reference of parts whose margins are given, one token an answer."""
    zeros, ones = torch.zeros(len(kinds)).double(), torch.ones(len(kinds)).long()
    shown = torch.tensor([SHOWN.index(kind) for kind in kinds])
    reference = PairLogps(zeros - 3, zeros - 2, ones, ones, shown)
    policy = reference._replace(
        chosen=reference.chosen + torch.tensor(distance, dtype=torch.float64)
    )
    return with_gradients(policy), reference


def part(logps: PairLogps, rows: slice) -> PairLogps:
    """Some of the parts."""
    return PairLogps(*(column[rows] for column in logps))


def exchanged(logps: PairLogps) -> PairLogps:
    """The same with the better and the worse answer exchanged."""
    chosen, rejected, chosen_tokens, rejected_tokens, shown = logps
    return PairLogps(rejected, chosen, rejected_tokens, chosen_tokens, shown)


def gradients(total: Tensor, policy: PairLogps) -> tuple[Tensor, Tensor]:
    """Of a loss by the better and by the worse answers' log-probabilities."""
    return torch.autograd.grad(total, policy[:2])
