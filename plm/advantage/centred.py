"""Reward less the group's mean, and nothing else: no group is made louder for being nearly settled.

Paper: Liu et al., Understanding R1-Zero-Like Training: Dr. GRPO (arXiv:2503.20783), section 3.2
Departs: `scale` brings it to another size, which one learning rate for several advantages wants.
"""

from torch import Tensor

from plm.advantage.common import Scored, apart
from plm.policy.common import ABOVE_0


def centred(scored: Scored, *, scale: float = 1.0) -> Tensor:
    """[R] fp64; 0 for all of a group whose rewards are equal, and so for a group of one.

    Args:
        scored: R rollouts.
        scale: constant factor.
    Raises:
        ConfigError: scale is not above 0.
    """
    ABOVE_0.check("advantage", scale=scale)
    return scale * apart(scored.judged, scored.groups).nan_to_num(nan=0.0)
