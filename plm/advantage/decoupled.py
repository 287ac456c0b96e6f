"""Each kind of reward is normalised in its group before they are added up, and the sum afterwards.

So a kind that hardly varies counts as much as its weight says, and different rewards of equal sum
stay different.

Paper: Liu et al., GDPO (arXiv:2601.05242)
Departs: the batch's mean is not subtracted, since it is 0: every group's sum is.
"""

import torch
from torch import Tensor

from plm.advantage.common import Scored, apart, check_eps, group_std


def decoupled(scored: Scored, *, eps: float = 1e-4) -> Tensor:
    """[R] fp64; 0 for all of a group in which no kind varies, and so for a group of one.

    Args:
        scored: R rollouts; a kind that does not judge one adds 0 there.
        eps: added to each deviation, that of a kind in a group and that of the batch.
    Raises:
        ConfigError: eps is not above 0.
    """
    check_eps(eps)
    groups, whole = scored.groups, torch.zeros_like(scored.groups)
    added = torch.zeros_like(scored.total)
    for kind, weight in zip(scored.kinds.unbind(1), scored.weights, strict=True):
        normalised = apart(kind, groups) / (group_std(kind, groups) + eps)
        added = added + weight * normalised.nan_to_num(nan=0.0)
    # A rollout that no kind judges is in no deviation.
    added = added.masked_fill(scored.kinds.isnan().all(1), float("nan"))
    return (added / (group_std(added, whole) + eps)).nan_to_num(nan=0.0)
