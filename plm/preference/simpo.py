"""The logistic loss on log-probabilities a token, which needs no reference.

Paper: Meng et al., SimPO (arXiv:2405.14734), equation 6; values as for its Llama-3-Base
Cost: two scored answers a pair, by the policy alone.
"""

import torch.nn.functional as F

from plm.batch import LossSum
from plm.preference.common import ABOVE_0, FROM_0, PairLogps, means, number


def simpo(
    policy: PairLogps,
    reference: PairLogps | None = None,
    *,
    beta: float = 2.0,
    gamma: float = 1.0,
) -> LossSum:
    """−log σ(β·(log π(y_w) / |y_w| − log π(y_l) / |y_l|) − γ).

    Nothing holds it to the model that it starts from but the rate and the number of steps.

    Args:
        policy: N parts, with gradients.
        reference: not read.
        beta: factor on the difference a token.
        gamma: γ, by how much the scaled difference shall exceed 0.
    Returns:
        Sum over the parts, dtype of the log-probabilities, nats, and N.
    Raises:
        ConfigError: beta is not above 0, or gamma is negative.
    """
    ABOVE_0.check(beta=beta)
    FROM_0.check(gamma=gamma)
    chosen, rejected = means(policy)
    losses = -F.logsigmoid(beta * (chosen - rejected) - gamma)
    return LossSum(losses.sum(), number(policy))


simpo.reference_free = True
