"""Reward less a baseline, over the standard deviation of the whole batch.

Paper: Hu et al., REINFORCE++ (arXiv:2501.03262)
Departs: mean and deviation are over rollouts; the paper's are over tokens, where a long rollout
    counts more and a divergence in the reward makes tokens differ.
"""

import torch
from torch import Tensor

from plm.advantage.common import Scored, apart, check_eps, group_std
from plm.policy.common import check_choice


def batch(scored: Scored, *, baseline: str = "group", eps: float = 1e-8) -> Tensor:
    """[R] fp64; 0 for all of a group, or with "none" of a batch, whose rewards are equal.

    Args:
        scored: R rollouts.
        baseline: "group": its mean is subtracted, after which the batch's is 0, and so is the
            advantage of a group of one. "none": the batch's mean is, which groups of one need.
        eps: added to the deviation.
    Raises:
        ConfigError: baseline is another word, or eps is not above 0.
    """
    check_choice("advantage", ("group", "none"), baseline=baseline)
    check_eps(eps)
    whole = torch.zeros_like(scored.groups)
    moved = apart(scored.judged, scored.groups if baseline == "group" else whole)
    return (moved / (group_std(moved, whole) + eps)).nan_to_num(nan=0.0)
