"""Estimates of how far the policy is from its reference, from the sampled tokens alone.

An estimate is `(logps [N], ref_logps [N], old_logps [N], **settings) -> [N]`, nats: the policy's
log-probabilities, with gradients where it is a term of the loss; the reference's; and those of the
weights that the tokens were drawn with, which are `logps`, detached, where a batch is used once.
One that gives each token what depends on it alone is marked `plm.policy.common.per_token`.

As values, on tokens of the policy itself, k1, k3 and `corrected` have KL(policy ‖ reference) as
their mean. As terms of a loss they do something else each, and what counts there is the mean of the
gradient: that of k1 is 0, that of k2 and of `corrected` is the gradient of KL(policy ‖ reference),
that of k3 the gradient of KL(reference ‖ policy), the other way round. In a reward use k1.
"""

from collections.abc import Callable

import torch
from torch import Tensor

from plm.policy.common import tried


def check(divergence: Callable[..., Tensor]) -> None:
    """Refuse an estimate's settings before anything is sampled: calls it on made-up tokens.

    Args:
        divergence: a partial, as a configuration builds it, or a function.
    Raises:
        ConfigError: a setting that it does not take, or a value that it refuses.
    """
    logps = torch.tensor([-1.0, -2.0, -3.0], requires_grad=True)
    tried("divergence", divergence, logps, logps.detach() + 0.5, logps.detach() - 0.5)
