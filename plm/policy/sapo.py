"""A soft gate in place of the clip: the gradient fades as the ratio leaves 1, and never jumps.

Paper: Gao et al., Soft adaptive policy optimization (arXiv:2511.20347)
Departs: nothing; an advantage of 0 has no gradient under either temperature.
"""

import torch

from plm.policy.common import ABOVE_0, Surrogate, Tokens, per_token, ratios


@per_token
def sapo(tokens: Tokens, *, positive: float = 1.0, negative: float = 1.05) -> Surrogate:
    """−(4 / τ)·σ(τ·(r − 1))·A, whose gradient at ratio 1 is that of −r·A.

    Args:
        tokens: N sampled tokens.
        positive, negative: τ of tokens with a positive advantage, and of the others: how fast the
            gradient fades; a greater one for the others, since they raise all other tokens.
    Returns:
        No token counts as held.
    Raises:
        ConfigError: a temperature is not above 0.
    """
    ABOVE_0.check("policy", positive=positive, negative=negative)
    ratio, advantages = ratios(tokens.logps, tokens.old_logps), tokens.advantages
    # Filled in the ratio's dtype: `where` of two Python numbers is fp32.
    tau = torch.full_like(ratio, negative).masked_fill(advantages > 0, positive)
    free = torch.zeros_like(advantages, dtype=torch.bool)
    return Surrogate(-(4 / tau) * (tau * (ratio - 1)).sigmoid() * advantages, free, free)
