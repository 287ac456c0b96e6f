"""Token-level policy loss in plain torch, with the full logits."""

from typing import NamedTuple

import torch
from torch import Tensor

from plm.batch import IGNORE_INDEX
from plm.errors import ConfigError
from plm.kernels.reference.linear_logprob import linear_logprob

OBJECTIVES = ("clip", "cispo")


class LinearPolicyLoss(NamedTuple):
    """The loss, and what to log, detached; sums are over the kept rows, without their weights.

    Attributes:
        total: scalar, sum of weight times loss; only this carries a gradient.
        logps: [N], log-probability of the label, 0 where it is masked.
        entropy: [N], in nats, 0 where the label is masked.
        kl: scalar, sum of the k3 estimates, 0 without ref_logps.
        clipped_low: scalar, int64, rows whose ratio fell below the lower bound and was held there.
        clipped_high: scalar, int64, likewise above the upper bound.
        count: scalar, int64, number of kept rows.
    """

    total: Tensor
    logps: Tensor
    entropy: Tensor
    kl: Tensor
    clipped_low: Tensor
    clipped_high: Tensor
    count: Tensor


def check_policy(
    objective: str, clip_low: float, clip_high: float, kl_weight: float, has_reference: bool
) -> None:
    """Refuse settings without a meaning.

    Raises:
        ConfigError: objective has another name, a clip is negative, or kl_weight has no ref_logps.
    """
    if objective not in OBJECTIVES:
        raise ConfigError(
            f"objective={objective!r} of linear_policy_loss is not one of: {', '.join(OBJECTIVES)}"
        )
    for name, value in (("clip_low", clip_low), ("clip_high", clip_high)):
        if not value >= 0:
            raise ConfigError(
                f"{name}={value} of linear_policy_loss must be at least 0: a distance from 1"
            )
    if kl_weight and not has_reference:
        raise ConfigError(
            f"kl_weight={kl_weight} of linear_policy_loss needs ref_logps; 0 goes without"
        )


def linear_policy_loss(
    hidden: Tensor,
    weight: Tensor,
    labels: Tensor,
    *,
    old_logps: Tensor | None,
    advantages: Tensor,
    weights: Tensor,
    ref_logps: Tensor | None = None,
    objective: str = "clip",
    clip_low: float = 0.2,
    clip_high: float = 0.2,
    kl_weight: float = 0.0,
    entropy_weight: float = 0.0,
    temperature: float = 1.0,
) -> LinearPolicyLoss:
    """Sum over the kept rows of a weight times a clipped policy gradient's loss.

    Arguments and result as of `plm.kernels.linear_policy_loss`.
    """
    check_policy(objective, clip_low, clip_high, kl_weight, ref_logps is not None)
    every = linear_logprob(hidden, weight, labels, temperature=temperature)
    kept = labels != IGNORE_INDEX
    logps, entropy = every.logps[kept], every.entropy[kept]
    advantage, factor = (t.detach()[kept].to(logps.dtype) for t in (advantages, weights))
    old = logps.detach() if old_logps is None else old_logps.detach()[kept].to(logps.dtype)
    ratio = (logps - old).exp()
    low, high = 1 - clip_low, 1 + clip_high
    bounded = ratio.clamp(low, high)
    if objective == "clip":
        loss = -torch.min(ratio * advantage, bounded * advantage)
        below, above = advantage < 0, advantage > 0
    else:
        loss = -bounded.detach() * advantage * logps
        below = above = advantage != 0
    kl = torch.zeros_like(logps)
    if ref_logps is not None:
        gap = ref_logps.detach()[kept].to(logps.dtype) - logps
        kl = gap.exp() - gap - 1
    if kl_weight:
        loss = loss + kl_weight * kl
    if entropy_weight:
        loss = loss - entropy_weight * entropy
    return LinearPolicyLoss(
        (factor * loss).sum(),
        every.logps.detach(),
        every.entropy.detach(),
        kl.sum().detach(),
        (below & (ratio < low)).sum(),
        (above & (ratio > high)).sum(),
        kept.sum(),
    )
