"""The log-ratio itself: the mean is right, single values are often negative.

Paper: Schulman, Approximating KL divergence (joschu.net/blog/kl-approx.html)
"""

from torch import Tensor

from plm.policy.common import per_token


@per_token
def k1(logps: Tensor, ref_logps: Tensor, old_logps: Tensor) -> Tensor:
    """lp − ref; meant for a reward.

    As a term of the loss its mean gradient is 0: it adds noise, and holds nothing.

    Args:
        logps: [N], fp32 or fp64, the policy's, with gradients.
        ref_logps: [N], the reference's.
        old_logps: [N], of the weights that the tokens were drawn with; not read.
    Returns:
        [N], nats.
    """
    return logps - ref_logps
