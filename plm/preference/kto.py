"""Each answer by itself against a common point: gains and losses as people weigh them.

Paper: Ethayarajh et al., KTO (arXiv:2402.01306), section 4
Departs: z₀ is the mean log-ratio of the micro-batch's answers to their own prompts; the paper's are
    answers to other prompts, which would have to be scored besides.
Cost: two scored answers a pair, by the policy and once by the reference.
"""

import torch

from plm.batch import LossSum
from plm.preference.common import ABOVE_0, FROM_0, PairLogps, number


def kto(
    policy: PairLogps,
    reference: PairLogps,
    *,
    beta: float = 0.1,
    desirable_weight: float = 1.0,
    undesirable_weight: float = 1.0,
) -> LossSum:
    """½·λ_D·(1 − σ(β·(r_w − z₀))) + ½·λ_U·(1 − σ(β·(z₀ − r_l))), r the log-ratio of an answer.

    z₀ is the mean of r over both answers of all parts given, at least 0, without gradient. So this
    loss, unlike the others, depends on the micro-batch: the same parts split otherwise give another
    sum.

    Args:
        policy: N parts, with gradients.
        reference: the same parts, without.
        beta: how closely the policy is held to the reference.
        desirable_weight, undesirable_weight: λ_D and λ_U, of better and of worse answers.
    Returns:
        Sum over the parts, dtype of the log-probabilities, no unit, and N; the halves make
        total / count a mean over answers.
    Raises:
        ConfigError: beta is not above 0, or a weight is negative.
    """
    ABOVE_0.check(beta=beta)
    FROM_0.check(desirable_weight=desirable_weight, undesirable_weight=undesirable_weight)
    chosen, rejected = policy.chosen - reference.chosen, policy.rejected - reference.rejected
    # NaN in a micro-batch without a part, where nothing reads it.
    point = torch.cat((chosen, rejected)).detach().mean().clamp(min=0)
    gained = desirable_weight * torch.sigmoid(beta * (point - chosen))
    lost = undesirable_weight * torch.sigmoid(beta * (rejected - point))
    return LossSum((gained + lost).sum() / 2, number(policy))


kto.of_micro_batch = True
