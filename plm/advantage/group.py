"""Reward less the group's mean, over the group's standard deviation.

Paper: Shao et al., DeepSeekMath: GRPO (arXiv:2402.03300), section 4.1.2
Departs: nothing; the deviation has Bessel's correction and `eps` is added to it, as in TRL.
"""

from torch import Tensor

from plm.advantage.common import Scored, apart, check_eps, group_std


def group(scored: Scored, *, eps: float = 1e-4) -> Tensor:
    """[R] fp64; 0 for all of a group whose rewards are equal, and so for a group of one.

    Args:
        scored: R rollouts.
        eps: added to the deviation.
    Raises:
        ConfigError: eps is not above 0.
    """
    check_eps(eps)
    rewards, groups = scored.judged, scored.groups
    return (apart(rewards, groups) / (group_std(rewards, groups) + eps)).nan_to_num(nan=0.0)
