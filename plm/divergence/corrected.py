"""k3 times the ratio to the weights that drew the tokens, which makes value and gradient right.

Paper: DeepSeek-AI, DeepSeek-V3.2 (arXiv:2512.02556), the unbiased KL estimate
"""

from torch import Tensor

from plm.divergence.k3 import k3
from plm.policy.common import per_token, ratios


@per_token
def corrected(logps: Tensor, ref_logps: Tensor, old_logps: Tensor) -> Tensor:
    """r·(exp(d) − d − 1), d = ref − lp, r = exp(lp − old), with the gradient of both factors.

    The mean over the old weights' tokens is KL(policy ‖ reference), that of the gradient its
    gradient, also after several updates on one batch.

    Args:
        logps: [N], fp32 or fp64, the policy's, with gradients.
        ref_logps: [N], the reference's.
        old_logps: [N], of the weights that the tokens were drawn with.
    Returns:
        [N], nats.
    """
    return ratios(logps, old_logps) * k3(logps, ref_logps, old_logps)
