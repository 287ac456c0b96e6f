"""No loss of its own: with an entropy term this is the control that learns from no reward.

Paper: Wang et al., Reinforcement learning for reasoning with one training example
    (arXiv:2504.20571), which trains on the entropy term alone as a control
"""

import torch

from plm.policy.common import Surrogate, Tokens, per_token


@per_token
def none(tokens: Tokens) -> Surrogate:
    """0 for each token, whatever its advantage.

    Args:
        tokens: N sampled tokens.
    """
    held = torch.zeros_like(tokens.rollout, dtype=torch.bool)
    return Surrogate(tokens.logps * 0, held, held)
