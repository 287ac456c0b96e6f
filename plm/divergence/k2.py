"""Half the squared log-ratio: as a term of the loss the gradient is that of KL(policy ‖ reference).

Paper: Schulman, Approximating KL divergence (joschu.net/blog/kl-approx.html)
"""

from torch import Tensor

from plm.policy.common import per_token


@per_token
def k2(logps: Tensor, ref_logps: Tensor, old_logps: Tensor) -> Tensor:
    """½·(lp − ref)²; a little off as a value, right as a term of the loss on tokens of the policy.

    Args:
        logps: [N], fp32 or fp64, the policy's, with gradients.
        ref_logps: [N], the reference's.
        old_logps: [N], of the weights that the tokens were drawn with; not read.
    Returns:
        [N], nats.
    """
    return (logps - ref_logps) ** 2 / 2
