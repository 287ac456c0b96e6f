"""The logistic loss on what the policy prefers more than its reference does.

Paper: Rafailov et al., DPO (arXiv:2305.18290), equation 7
Paper: Mitchell, A note on DPO with noisy preferences (ericmitchell.ai/cdpo.pdf): smoothed labels
Departs: `length_normalised` divides each log-ratio by its answer's tokens; off, as in the paper.
Cost: two scored answers a pair, by the policy and once by the reference.
"""

import torch.nn.functional as F

from plm.batch import LossSum
from plm.preference.common import ABOVE_0, FLIPPED, PairLogps, check_flags, margins, number


def dpo(
    policy: PairLogps,
    reference: PairLogps,
    *,
    beta: float = 0.1,
    label_smoothing: float = 0.0,
    length_normalised: bool = False,
) -> LossSum:
    """−(1 − ε)·log σ(β·D) − ε·log σ(−β·D), D the margin and ε the smoothing.

    Args:
        policy: N parts, with gradients.
        reference: the same parts, without.
        beta: how closely the policy is held to the reference.
        label_smoothing: ε, the share of pairs that are taken to be the wrong way round. Above 0 the
            loss pulls back beyond β·D = log((1 − ε) / ε).
        length_normalised: D of log-ratios a token, which wants a larger beta.
    Returns:
        Sum over the parts, dtype of the log-probabilities, nats, and N.
    Raises:
        ConfigError: beta is not above 0, or label_smoothing lies outside [0, 0.5).
    """
    ABOVE_0.check(beta=beta)
    FLIPPED.check(label_smoothing=label_smoothing)
    check_flags(length_normalised=length_normalised)
    scaled = beta * margins(policy, reference, per_token=length_normalised)
    taken, exchanged = -F.logsigmoid(scaled), -F.logsigmoid(-scaled)
    losses = (1 - label_smoothing) * taken + label_smoothing * exchanged
    return LossSum(losses.sum(), number(policy))
