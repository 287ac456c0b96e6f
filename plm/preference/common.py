"""What a preference loss sees: log-probabilities of pairs, under the policy and the reference."""

import inspect
import math
from collections.abc import Callable
from typing import Any, NamedTuple

import torch
from torch import Tensor

from plm.data.pairs import SHOWN
from plm.errors import ConfigError

NOTHING, WORSE, BETTER = range(len(SHOWN))
"""What the prompt of a pair shows besides the question: no answer, the pair's worse one, or its
better one; the numbers in `PairLogps.shown`."""


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


def margins(policy: PairLogps, reference: PairLogps, *, per_token: bool = False) -> Tensor:
    """[N]: log-ratio of the better answer less that of the worse one, D in the papers, nats.

    With `per_token` each log-ratio is divided by its answer's tokens first.
    """
    chosen, rejected = policy.chosen - reference.chosen, policy.rejected - reference.rejected
    if per_token:
        return chosen / policy.chosen_tokens - rejected / policy.rejected_tokens
    return chosen - rejected


def means(policy: PairLogps) -> tuple[Tensor, Tensor]:
    """[N] each: log-probability a token of the better and of the worse answer, nats."""
    return policy.chosen / policy.chosen_tokens, policy.rejected / policy.rejected_tokens


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


class Numbers(NamedTuple):
    """Which numbers a setting may be, and how that is said."""

    says: str
    holds: Callable[[float], bool]

    def check(self, **settings: Any) -> None:
        """Refuse settings, by name, that are no such number.

        Raises:
            ConfigError: the key, what came, the rule.
        """
        for name, value in settings.items():
            # True would pass as 1, and quoted digits could not be calculated with.
            counts = isinstance(value, int | float) and not isinstance(value, bool)
            if not counts or not self.holds(value):
                raise ConfigError(f"preference.{name}={value!r} must be {self.says}")


ABOVE_0 = Numbers("a number above 0, for example 0.1", lambda value: 0 < value < math.inf)
FROM_0 = Numbers("a number from 0 on; 0 switches it off", lambda value: 0 <= value < math.inf)
FLIPPED = Numbers(
    "from 0 to below 0.5: the share of pairs whose answers were taken for each other; "
    "beyond it exchange chosen and rejected",
    lambda value: 0 <= value < 0.5,
)


def check_flags(**settings: Any) -> None:
    """Refuse settings, by name, that are neither true nor false.

    Raises:
        ConfigError: the key, what came, the rule.
    """
    for name, value in settings.items():
        if not isinstance(value, bool):
            raise ConfigError(f"preference.{name}={value!r} must be true or false")


def check(loss: Callable[..., Any]) -> None:
    """Refuse a loss's settings before any data is read: calls it on one made-up part of each kind.

    Args:
        loss: a partial, as a configuration builds it, or a function.
    Raises:
        ConfigError: a setting that it does not take, or a value that it refuses.
    """
    logps = [torch.full((len(SHOWN),), -float(nats)) for nats in (2, 3, 3, 4)]
    tokens = torch.full((len(SHOWN),), 2)
    policy, reference = (
        PairLogps(chosen, rejected, tokens, tokens, torch.arange(len(SHOWN)))
        for chosen, rejected in (logps[:2], logps[2:])
    )
    against = reference if needs_reference(loss) else None
    function, settings = getattr(loss, "func", loss), getattr(loss, "keywords", {})
    try:
        inspect.signature(function).bind(policy, against, **settings)
    except TypeError as error:
        raise ConfigError(f"preference={function.__name__}: {error}") from error
    shown_by(loss)
    loss(policy, against)
