"""The square loss on the margin, which stops pushing at a distance that is set.

Paper: Azar et al., IPO (arXiv:2310.12036), equation 17
Departs: `length_normalised` divides each log-ratio by its answer's tokens, as TRL does; off, as the
    equation is written.
Cost: two scored answers a pair, by the policy and once by the reference.
"""

from plm.batch import LossSum
from plm.preference.common import ABOVE_0, PairLogps, check_flags, margins, number


def ipo(
    policy: PairLogps,
    reference: PairLogps,
    *,
    beta: float = 0.1,
    length_normalised: bool = False,
) -> LossSum:
    """(D − 1 / (2β))², D the margin; smallest at D = 1 / (2β), beyond which it pulls back.

    It is 1 / β² of the square that `plm.preference.aries` puts on refinements.

    Args:
        policy: N parts, with gradients.
        reference: the same parts, without.
        beta: τ in the paper: how closely the policy is held to the reference.
        length_normalised: D of log-ratios a token, so that 1 / (2β) is nats a token.
    Returns:
        Sum over the parts, dtype of the log-probabilities, nats squared, and N.
    Raises:
        ConfigError: beta is not above 0.
    """
    ABOVE_0.check(beta=beta)
    check_flags(length_normalised=length_normalised)
    distance = margins(policy, reference, per_token=length_normalised) - 1 / (2 * beta)
    return LossSum(distance.square().sum(), number(policy))
