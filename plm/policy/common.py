"""What policy losses share: sampled tokens as the trainer sees them, and what a loss says of each.

A loss is `(tokens, **settings) -> Surrogate`, a value a token. How the tokens of a step are weighed
is `aggregation`'s business, what they are worth `advantage`'s, and what the sampler's other
arithmetic changes `correction`'s.
"""

import inspect
import math
from collections.abc import Callable
from typing import Any, NamedTuple

import torch
from torch import Tensor

from plm.errors import ConfigError

FARTHEST = 20.0
"""Most that a log-ratio may be, in nats: above it the exponential is held, without a gradient."""


class Tokens(NamedTuple):
    """N sampled tokens of R rollouts; prompts and what tools said are left out.

    Each rollout is whole, but for losses that are marked `per_token`: these are called with
    stretches of tokens too, which may begin and end within a rollout.

    Attributes:
        logps: [N] fp32, log-probability under the policy at the temperature of the draws, nats;
            with gradients.
        entropy: [N], of the distribution that each is drawn from, nats; with gradients.
        old_logps: [N], under the weights that the batch of rollouts was drawn with, by the
            trainer; of a batch that is used once these are `logps`, detached.
        advantages: [N], of the token's rollout, or of each token where a value model gives them.
        rollout: [N] int64, which of the R rollouts it belongs to; a rollout's tokens lie together,
            in their order.
        number: R.
    """

    logps: Tensor
    entropy: Tensor
    old_logps: Tensor
    advantages: Tensor
    rollout: Tensor
    number: int


class Surrogate(NamedTuple):
    """What a loss says of N tokens.

    Attributes:
        loss: [N], with gradients; its value means little (0 at ratio 1 where advantages cancel),
            its gradient is what counts.
        below, above: [N] bool, whether a bound held the token's ratio from below or from above.
    """

    loss: Tensor
    below: Tensor
    above: Tensor


def per_token(loss: Callable[..., Any]) -> Callable[..., Any]:
    """Mark a loss that says of each token what depends on that token alone.

    Its gradient is made while the token's logits are at hand, which spares a product with the head;
    a loss without the mark sees all tokens of its rollouts at once. One with it is called several
    times, so that it may keep nothing. Divergences are marked in the same way.
    """
    # Itself, since functools.wraps would hand a mere True on to a function around it.
    loss.per_token = loss  # type: ignore[attr-defined]
    return loss


def is_per_token(loss: Callable[..., Any]) -> bool:
    """Whether the loss, or the function inside the partial, is marked."""
    function = getattr(loss, "func", loss)
    return getattr(function, "per_token", None) is function


def means(values: Tensor, rollout: Tensor, number: int) -> Tensor:
    """[R] mean of each rollout's tokens; 0 for one that has none.

    Args:
        values: [N].
        rollout: [N] int64.
        number: R.
    """
    total = values.new_zeros(number).index_add(0, rollout, values)
    count = torch.bincount(rollout, minlength=number).clamp(min=1)
    return total / count


def ratios(logps: Tensor, old_logps: Tensor) -> Tensor:
    """exp(logps − old_logps), held at exp(FARTHEST).

    In fp32 the exponential of 89 nats is infinite, and an advantage of 0 times it is no number.
    """
    return (logps - old_logps).clamp(max=FARTHEST).exp()


class Numbers(NamedTuple):
    """Which numbers a setting may be, and how that is said."""

    says: str
    holds: Callable[[float], bool]

    def check(self, group: str, **settings: Any) -> None:
        """Refuse settings of a group, by name, that are no such number.

        Raises:
            ConfigError: the key, what came, the rule.
        """
        for name, value in settings.items():
            # True would pass as 1, and quoted digits could not be calculated with.
            counts = isinstance(value, int | float) and not isinstance(value, bool)
            if not counts or not self.holds(value):
                raise ConfigError(f"{group}.{name}={value!r} must be {self.says}")


ABOVE_0 = Numbers("a number above 0", lambda value: 0 < value < math.inf)
FROM_0 = Numbers("a number from 0 on", lambda value: 0 <= value < math.inf)
SHARE = Numbers("a number from 0 to 1", lambda value: 0 <= value <= 1)
DISTANCE = Numbers(
    "a number from 0 on: how far the ratio may lie from 1", lambda value: 0 <= value < math.inf
)


def check_bounds(**settings: Any) -> None:
    """Refuse distances from ratio 1, by name, that are no numbers from 0 on.

    Raises:
        ConfigError: the key, what came, the rule.
    """
    DISTANCE.check("policy", **settings)


def check_choice(group: str, choices: tuple[str, ...], **settings: Any) -> None:
    """Refuse settings of a group, by name, that are none of the words.

    Raises:
        ConfigError: the key, what came, the words.
    """
    for name, value in settings.items():
        if value not in choices:
            raise ConfigError(f"{group}.{name}={value!r} must be one of: {', '.join(choices)}")


def tried(group: str, method: Callable[..., Any], *given: Any, **also: Any) -> Any:
    """What a method makes of made-up input, or what is wrong with its settings.

    Args:
        group: the configuration's group, for the message.
        method: a partial, as a configuration builds it, or a function.
        given, also: what it is called with besides its settings.
    Raises:
        ConfigError: a setting that it does not take or lacks, or a value that it refuses.
    """
    function, settings = getattr(method, "func", method), getattr(method, "keywords", {})
    try:
        inspect.signature(function).bind(*given, **{**settings, **also})
    except TypeError as error:
        name = getattr(function, "__name__", function)
        raise ConfigError(f"{group}={name}: {error}") from error
    return method(*given, **also)


def check(loss: Callable[..., Surrogate]) -> None:
    """Refuse a loss's settings before anything is sampled: calls it on three made-up tokens.

    Args:
        loss: a partial, as a configuration builds it, or a function.
    Raises:
        ConfigError: a setting that it does not take, or a value that it refuses.
    """
    logps = torch.tensor([-1.0, -2.0, -3.0], requires_grad=True)
    tokens = Tokens(
        logps=logps,
        entropy=torch.ones(3),
        old_logps=torch.tensor([-1.0, -2.5, -2.5]),
        advantages=torch.tensor([1.0, 1.0, -1.0]),
        rollout=torch.tensor([0, 0, 1]),
        number=2,
    )
    tried("policy", loss, tokens)
