"""Never negative, and little spread: the estimate that GRPO has in its loss.

Paper: Schulman, Approximating KL divergence (joschu.net/blog/kl-approx.html)
Paper: Shao et al., DeepSeekMath: GRPO (arXiv:2402.03300), equation 4
"""

import torch
from torch import Tensor

from plm.policy.common import per_token


@per_token
def k3(logps: Tensor, ref_logps: Tensor, old_logps: Tensor) -> Tensor:
    """exp(d) − d − 1, d = ref − lp.

    As a term of the loss its mean gradient is that of KL(reference ‖ policy), and it grows with
    exp(d) where the policy has left what the reference would say.

    Args:
        logps: [N], fp32 or fp64, the policy's, with gradients.
        ref_logps: [N], the reference's.
        old_logps: [N], of the weights that the tokens were drawn with; not read.
    Returns:
        [N], nats.
    """
    return torch.expm1(ref_logps - logps) - (ref_logps - logps)
