"""What a preference loss sees: log-probabilities of pairs, under the policy and the reference."""

from collections.abc import Callable
from typing import Any, NamedTuple

import torch
from torch import Tensor

SHOWN = ("nothing", "worse", "better")
"""What the prompt of a pair shows besides the question: no answer, the pair's worse one, or its
better one. Their indices are the numbers in `PairLogps.shown`."""
NOTHING, WORSE, BETTER = range(3)


class PairLogps(NamedTuple):
    """Log-probabilities of N pairs' answers, each pair behind one prompt.

    Attributes:
        chosen, rejected: [N], fp32 or fp64, nats: of the better and the worse answer, summed over
            its tokens.
        chosen_tokens, rejected_tokens: [N] int64, how many those are, the end of the turn included.
        shown: [N] int64, index into SHOWN.
    """

    chosen: Tensor
    rejected: Tensor
    chosen_tokens: Tensor
    rejected_tokens: Tensor
    shown: Tensor


def margins(policy: PairLogps, reference: PairLogps) -> Tensor:
    """[N]: log-ratio of the better answer less that of the worse one, D in the papers, nats."""
    return (policy.chosen - reference.chosen) - (policy.rejected - reference.rejected)


def shown_by(loss: Callable[..., Any]) -> tuple[str, ...]:
    """Which prompts a loss wants, of SHOWN; those of a loss that does not say: the question alone.

    Args:
        loss: a partial, as a configuration builds it, or a function; its attribute `shows`, called
            with the settings, says it.
    """
    function = getattr(loss, "func", loss)
    says = getattr(function, "shows", None)
    return SHOWN[:1] if says is None else says(**getattr(loss, "keywords", {}))


def needs_reference(loss: Callable[..., Any]) -> bool:
    """Whether a loss compares with a reference; a loss without one sets `reference_free`."""
    return not getattr(getattr(loss, "func", loss), "reference_free", False)


def number(logps: PairLogps) -> Tensor:
    """How many pairs, as LossSum counts them."""
    return torch.tensor(len(logps.chosen), device=logps.chosen.device)
