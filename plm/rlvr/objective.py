"""From a micro-batch's hidden states to the loss of its rollouts."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from plm.batch import IGNORE_INDEX, LossSum
from plm.kernels import pick
from plm.policy.common import Surrogate, Tokens


@dataclass(frozen=True)
class Objective:
    """What is minimised, of the choices that make it up.

    Attributes:
        policy: `(Tokens) -> Surrogate`.
        aggregation: `(lengths, longest=) -> [R]`.
        divergence: `(logps, ref_logps, old_logps) -> [N]`; None: none in the loss.
        divergence_weight: factor on it.
        correction: `(old_logps, sampled, rollout, number) -> [N]`; None: none.
        entropy_weight: factor on the entropy, which is subtracted.
        temperature: of the draws; log-probabilities are those at it.
    """

    policy: Callable[[Tokens], Surrogate]
    aggregation: Callable[..., Tensor]
    divergence: Callable[..., Tensor] | None = None
    divergence_weight: float = 0.0
    correction: Callable[..., Tensor] | None = None
    entropy_weight: float = 0.0
    temperature: float = 1.0

    def loss(
        self,
        hidden: Tensor,
        head_weight: Tensor,
        labels: Tensor,
        *,
        known: dict[str, Tensor],
        owner: Tensor,
        advantages: Tensor,
        weights: Tensor,
        kernels: str = "auto",
    ) -> tuple[LossSum, dict[str, LossSum], dict[str, Tensor]]:
        """The loss of M rollouts with N tokens that the policy chose, without the full logits.

        Args:
            hidden: [B, T, D].
            head_weight: [V, D].
            labels: [B, T] int64.
            known: of the N tokens: `sampled`, and `old` and `reference` where there are any.
            owner: [N] int64, which rollout each belongs to.
            advantages: [M].
            weights: [M], of each token of a rollout, of all rollouts of the step.
            kernels: "auto" or "reference".
        Returns:
            the loss, divided already: its count is 1; what is logged, sums and counts by name; and
            the largest of other figures.
        """
        logps, entropy = token_logps(
            hidden, head_weight, labels, temperature=self.temperature, kernels=kernels
        )
        old = known["old"].to(logps) if "old" in known else logps.detach()
        sampled = known["sampled"].to(logps)
        tokens = Tokens(logps, entropy, old, advantages.to(logps)[owner], owner, len(advantages))
        surrogate = self.policy(tokens)
        each = surrogate.loss
        factor = None
        if self.correction is not None:
            factor = self.correction(old, sampled, owner, len(advantages))
            each = each * factor
        if self.divergence is not None:
            reference = known["reference"].to(logps)
            each = each + self.divergence_weight * self.divergence(logps, reference, old)
        if self.entropy_weight:
            each = each - self.entropy_weight * entropy
        total = (weights.to(each)[owner] * each).sum()
        with torch.no_grad():
            said, most = figures(tokens, surrogate, sampled, known.get("reference"), factor)
        return LossSum(total, torch.ones((), dtype=torch.int64)), said, most


def token_logps(
    hidden: Tensor, head_weight: Tensor, labels: Tensor, *, temperature: float, kernels: str
) -> tuple[Tensor, Tensor]:
    """[N] log-probabilities of the labels and [N] entropies, nats, without the full logits.

    Args:
        hidden: [B, T, D].
        head_weight: [V, D].
        labels: [B, T] int64; IGNORE_INDEX drops a place.
    """
    flat = labels.reshape(-1)
    found = pick(kernels).linear_logprob(
        hidden.reshape(-1, hidden.shape[-1]), head_weight, flat, temperature=temperature
    )
    kept = flat != IGNORE_INDEX
    return found.logps[kept], found.entropy[kept]


def figures(
    tokens: Tokens,
    surrogate: Surrogate,
    sampled: Tensor,
    reference: Tensor | None,
    factor: Tensor | None,
) -> tuple[dict[str, LossSum], dict[str, Tensor]]:
    """What is logged of N tokens: sums and counts, and the largest, by name.

    `mismatch` compares the trainer's arithmetic with the sampler's on the weights that drew the
    tokens; `ratio` the weights now with those. `kl` is the k3 estimate to the reference.
    """
    number = torch.tensor(len(tokens.logps))
    ratio = tokens.logps - tokens.old_logps
    apart = tokens.old_logps - sampled
    means: dict[str, Any] = {
        "entropy": tokens.entropy,
        "clip_low": surrogate.below,
        "clip_high": surrogate.above,
        "mismatch": apart.abs(),
        "mismatch_kl": -apart,
    }
    if reference is not None:
        gap = reference.to(tokens.logps) - tokens.logps
        means["kl"] = gap.expm1() - gap
    if factor is not None:
        means["correction"] = factor
    said = {f"rlvr/{name}": LossSum(v.double().sum(), number) for name, v in means.items()}
    extremes = {
        "ratio_max": ratio.exp(),
        "inverse_ratio_max": (-ratio).exp(),
        "mismatch_max": apart.abs(),
    }
    none = tokens.logps.new_full((), -torch.inf)
    return said, {n: v.max() if len(v) else none for n, v in extremes.items()}


class Scorer:
    """In a loss's place, for log-probabilities alone: it runs where the head's weight is whole."""

    def __init__(self, temperature: float) -> None:
        self.temperature = temperature

    def __call__(
        self, hidden: Tensor, head_weight: Tensor, labels: Tensor, kernels: str = "auto"
    ) -> Tensor:
        return token_logps(
            hidden, head_weight, labels, temperature=self.temperature, kernels=kernels
        )[0]
