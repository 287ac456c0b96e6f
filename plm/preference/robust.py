"""DPO that is right on average where a known share of the pairs is the wrong way round.

Paper: Chowdhury et al., Provably Robust DPO (arXiv:2403.00409), section 3.1
Cost: two scored answers a pair, by the policy and once by the reference.
"""

import torch.nn.functional as F

from plm.batch import LossSum
from plm.preference.common import ABOVE_0, FLIPPED, PairLogps, margins, number


def robust(
    policy: PairLogps,
    reference: PairLogps,
    *,
    beta: float = 0.1,
    label_smoothing: float = 0.1,
) -> LossSum:
    """(−(1 − ε)·log σ(β·D) + ε·log σ(−β·D)) / (1 − 2ε), D the margin and ε the share.

    Over pairs of which the share ε is exchanged, its mean is that of DPO over the true pairs. It
    falls without end as D grows, by ε·β / (1 − 2ε) a nat; `dpo` with smoothed labels pulls back.

    Args:
        policy: N parts, with gradients.
        reference: the same parts, without.
        beta: how closely the policy is held to the reference.
        label_smoothing: ε; 0 is DPO.
    Returns:
        Sum over the parts, dtype of the log-probabilities, nats, and N.
    Raises:
        ConfigError: beta is not above 0, or label_smoothing lies outside [0, 0.5).
    """
    ABOVE_0.check(beta=beta)
    FLIPPED.check(label_smoothing=label_smoothing)
    scaled = beta * margins(policy, reference)
    taken, exchanged = -F.logsigmoid(scaled), -F.logsigmoid(-scaled)
    losses = ((1 - label_smoothing) * taken - label_smoothing * exchanged) / (
        1 - 2 * label_smoothing
    )
    return LossSum(losses.sum(), number(policy))
