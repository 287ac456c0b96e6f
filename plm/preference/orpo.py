"""Next-token loss on the better answer, and the odds of both against each other; no reference.

Paper: Hong et al., ORPO (arXiv:2403.07691), equations 4, 6 and 7; weight as for its Mistral
Departs: the next-token loss is a mean over each better answer's tokens and then over the parts;
    TRL takes it over all tokens of the batch, the prompts' included.
Cost: two scored answers a pair, by the policy alone.
"""

import torch
import torch.nn.functional as F
from torch import Tensor

from plm.batch import LossSum
from plm.preference.common import FROM_0, PairLogps, means, number


def orpo(
    policy: PairLogps,
    reference: PairLogps | None = None,
    *,
    odds_weight: float = 0.1,
) -> LossSum:
    """−log p_w − λ·log σ(log(p_w / (1 − p_w)) − log(p_l / (1 − p_l))), log p the mean a token.

    Args:
        policy: N parts, with gradients.
        reference: not read.
        odds_weight: λ; 0 leaves the next-token loss alone.
    Returns:
        Sum over the parts, dtype of the log-probabilities, nats, and N.
    Raises:
        ConfigError: odds_weight is negative.
    """
    FROM_0.check(odds_weight=odds_weight)
    chosen, rejected = means(policy)
    ratio = F.logsigmoid(_log_odds(chosen) - _log_odds(rejected))
    return LossSum((-chosen - odds_weight * ratio).sum(), number(policy))


def _log_odds(logps: Tensor) -> Tensor:
    # An answer that is certain in this dtype has infinite odds, whose gradient would be NaN.
    below = logps.clamp(max=-torch.finfo(logps.dtype).eps)
    return below - torch.log(-torch.expm1(below))


orpo.reference_free = True
