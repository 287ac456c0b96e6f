"""How the tokens of a step are weighed against each other.

An aggregation is `(lengths, **settings) -> [R]`: the weight that every token of a rollout has, of
all rollouts of one optimizer step over all processes and micro-batches, so that the loss
    sum over rollouts i of weight_i times the sum over its tokens
does not depend on how these are shared out. A rollout that is left out (cut, and masked) has length
0, and is in no denominator.
"""

from collections.abc import Callable

import torch
from torch import Tensor

from plm.policy.common import tried


def there(lengths: Tensor) -> Tensor:
    """Scalar fp64: rollouts that have tokens; 1 if none has."""
    return (lengths > 0).sum().double().clamp(min=1)


def check(aggregation: Callable[..., Tensor]) -> None:
    """Refuse an aggregation's settings before anything is sampled: calls it on made-up lengths.

    Args:
        aggregation: a partial, as a configuration builds it, or a function.
    Raises:
        ConfigError: a setting that it does not take, or a value that it refuses.
    """
    tried("aggregation", aggregation, torch.tensor([3, 0, 1]), longest=4)
