"""Reward less the mean of the group's other rollouts: a baseline without bias.

Paper: Kool et al., Buy 4 REINFORCE samples, get a baseline for free! (ICLR workshop 2019)
Paper: Ahmadian et al., Back to basics: RLOO (arXiv:2402.14740)
"""

from torch import Tensor

from plm.advantage.common import Scored, apart, group_size


def leave_one_out(scored: Scored) -> Tensor:
    """[R] fp64; n / (n − 1) times what `centred` gives a group of n.

    A group of one has no others: its advantage is 0, so that it teaches nothing.

    Args:
        scored: R rollouts.
    """
    rewards, groups = scored.judged, scored.groups
    size = group_size(rewards, groups)
    return (apart(rewards, groups) * size / (size - 1).clamp(min=1)).nan_to_num(nan=0.0)
