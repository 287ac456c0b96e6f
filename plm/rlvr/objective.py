"""From a micro-batch's hidden states to the loss of its rollouts."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, NamedTuple

import torch
from torch import Tensor

from plm.batch import IGNORE_INDEX, LossSum
from plm.kernels import pick
from plm.kernels.linear_rows import wide_dtype
from plm.policy.common import Surrogate, Tokens, is_per_token


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
            known: of the N tokens: `sampled`, and `old`, `reference` and, with a value model,
                `advantages` where there are any.
            owner: [N] int64, which rollout each belongs to.
            advantages: [M]; not looked at where each token has its own.
            weights: [M], of each token of a rollout, of all rollouts of the step.
            kernels: "auto" or "reference".
        Returns:
            the loss, divided already: its count is 1; what is logged, sums and counts by name; and
            the largest of other figures.
        """
        wide = wide_dtype(hidden.dtype)
        given = _Given(
            len(advantages),
            owner,
            known.get("advantages", advantages[owner]).to(wide),
            weights.to(wide)[owner],
            *(known[n].to(wide) if n in known else None for n in ("sampled", "old", "reference")),
        )
        alone = all(is_per_token(p) for p in (self.policy, self.divergence) if p is not None)
        # A correction is known only where all log-probabilities are.
        known_before = self.correction is None or given.old is not None
        make = self._fused if alone and known_before else self._in_two_passes
        total, logps, entropy, given = make(hidden, head_weight, labels, given, kernels)
        with torch.no_grad():
            tokens = given.tokens(logps, entropy)
            surrogate = self.policy(tokens)
            said, most = figures(tokens, surrogate, given.sampled, given.reference, given.factor)
        return LossSum(total, torch.ones((), dtype=torch.int64)), said, most

    def _fused(
        self, hidden: Tensor, head_weight: Tensor, labels: Tensor, given: "_Given", kernels: str
    ) -> tuple[Tensor, Tensor, Tensor, "_Given"]:
        """The loss in one pass over the head: what a token has depends on no other one."""
        given = self._corrected(given)
        # The gradient is made in the product's dtype before the backward brings its factor, a
        # scaler's too: weights of 1e-6 would be none in fp16. A power of two changes no digit.
        factor = _power_of_two(given.weights)
        scaled = given._replace(weights=given.weights / factor)
        loss, logps, entropy = pick(kernels).linear_loss(
            hidden.reshape(-1, hidden.shape[-1]),
            head_weight,
            labels.reshape(-1),
            lambda logps, entropy, span: self._each(logps, entropy, scaled.rows(span)),
            temperature=self.temperature,
        )
        return loss * factor, logps, entropy, given

    def _in_two_passes(
        self, hidden: Tensor, head_weight: Tensor, labels: Tensor, given: "_Given", kernels: str
    ) -> tuple[Tensor, Tensor, Tensor, "_Given"]:
        """The loss once the log-probabilities of all tokens are there."""
        logps, entropy = token_logps(
            hidden, head_weight, labels, temperature=self.temperature, kernels=kernels
        )
        if given.old is None:
            given = given._replace(old=logps.detach())
        given = self._corrected(given)
        return self._each(logps, entropy, given).sum(), logps, entropy, given

    def _corrected(self, given: "_Given") -> "_Given":
        """With the factors for what the sampler's arithmetic changes."""
        if self.correction is None:
            return given
        factor = self.correction(given.old, given.sampled, given.owner, given.number)
        return given._replace(factor=factor)

    def _each(self, logps: Tensor, entropy: Tensor, given: "_Given") -> Tensor:
        """[n] loss of some tokens, weighed."""
        tokens = given.tokens(logps, entropy)
        each = self.policy(tokens).loss
        if given.factor is not None:
            each = each * given.factor
        if self.divergence is not None:
            each = each + self.divergence_weight * self.divergence(
                logps, given.reference, tokens.old_logps
            )
        if self.entropy_weight:
            each = each - self.entropy_weight * entropy
        return given.weights * each


class _Given(NamedTuple):
    """What is known of N tokens of `number` rollouts before the policy has seen them.

    [N] each; None: it is not known.
    """

    number: int
    owner: Tensor
    advantages: Tensor
    weights: Tensor
    sampled: Tensor
    old: Tensor | None
    reference: Tensor | None
    factor: Tensor | None = None

    def rows(self, span: slice) -> "_Given":
        """Those of some tokens."""
        return _Given(*(part[span] if isinstance(part, Tensor) else part for part in self))

    def tokens(self, logps: Tensor, entropy: Tensor) -> Tokens:
        """As a policy loss takes them."""
        old = logps.detach() if self.old is None else self.old
        return Tokens(logps, entropy, old, self.advantages, self.owner, self.number)


def _power_of_two(weights: Tensor) -> Tensor:
    """The power of two next above the largest, a scalar on their device; 1 where all are 0."""
    largest = torch.cat([weights, weights.new_zeros(1)]).amax()
    exponent = torch.frexp(largest).exponent
    return torch.where(largest > 0, torch.ldexp(torch.ones_like(largest), exponent), 1)


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
