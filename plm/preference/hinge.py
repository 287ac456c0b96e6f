"""The hinge loss on the margin: a pair that is far enough apart is left alone.

Paper: Zhao et al., SLiC-HF (arXiv:2305.10425), section 2
Paper: Liu et al., RSO (arXiv:2309.06657), whose margin against a reference this is
Departs: the distance is 1 / β, and SLiC-HF's term that holds to the supervised model is left out,
    since the reference does that.
Cost: two scored answers a pair, by the policy and once by the reference.
"""

from plm.batch import LossSum
from plm.preference.common import ABOVE_0, PairLogps, margins, number


def hinge(policy: PairLogps, reference: PairLogps, *, beta: float = 0.1) -> LossSum:
    """max(0, 1 − β·D), D the margin; no gradient from D = 1 / β on.

    Args:
        policy: N parts, with gradients.
        reference: the same parts, without.
        beta: inverse of the distance in nats that is enough.
    Returns:
        Sum over the parts, dtype of the log-probabilities, no unit, and N.
    Raises:
        ConfigError: beta is not above 0.
    """
    ABOVE_0.check(beta=beta)
    losses = (1 - beta * margins(policy, reference)).relu()
    return LossSum(losses.sum(), number(policy))
