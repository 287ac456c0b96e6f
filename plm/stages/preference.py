"""Preference learning: of two answers to one prompt, the better is to become the likelier.

A pair's parts (the question alone, the worse answer shown, the better one shown) lie in windows
like documents, and a loss is a sum over parts. So parts of one pair may lie in different
micro-batches, whose gradients add up to that of all of them at once: no more than the activations
of one micro-batch are ever held. What the reference gives the answers is computed once, before the
first step.
"""

from collections.abc import Callable, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from plm.batch import Batch, LossSum
from plm.errors import ConfigError
from plm.model.context import Context
from plm.pairs.logps import pair_logps
from plm.pairs.reference import Reference, measure
from plm.preference.common import SHOWN, PairLogps, margins, needs_reference, shown_by
from plm.stages.base import Stage


class Preference(Stage):
    """A preference loss over the parts of pairs.

    Args:
        preference: `(policy, reference) -> LossSum`, of configs/preference.
        sft_weight: adds so much of the better answer's mean negative log-probability a token, which
            keeps it from getting less likely together with the worse one; 0: nothing.
        settings: of every stage; `losses` must be empty.
    Raises:
        ConfigError: sft_weight is negative, or there are other losses.
    """

    main_loss = "preference"

    def __init__(
        self,
        model: torch.nn.Module,
        *,
        preference: Callable[..., LossSum],
        sft_weight: float = 0.0,
        losses: Mapping[str, Any],
        **settings: Any,
    ) -> None:
        refuse(sft_weight, losses)
        super().__init__(model, losses={"preference": preference}, **settings)
        self.preference, self.sft_weight = preference, sft_weight
        self.reference: Reference | None = None

    def compute(self, batch: Batch) -> dict[str, LossSum]:
        """The loss of a micro-batch's parts."""
        phase = self.plan.at(batch.step).phase
        reference = None
        if self.reference is not None:
            reference = self.reference.of(batch.extras["parts"], batch.source_ids)
        return self.model(
            batch.tokens,
            context=Context.of(batch, rope_theta=phase.rope_theta),
            labels=batch.labels,
            losses={"preference": partial(self._loss, batch=batch, reference=reference)},
            regularizers=self.regularizers.get(phase.name),
        ).losses

    def _loss(
        self,
        hidden: Tensor,
        head_weight: Tensor,
        labels: Tensor,
        *,
        batch: Batch,
        reference: Tensor | None,
        kernels: str = "auto",
    ) -> LossSum:
        policy = pair_logps(
            hidden,
            head_weight,
            labels,
            doc_ids=batch.doc_ids,
            parts=batch.extras["parts"],
            shown=batch.extras["shown"],
            kernels=kernels,
        )
        loss, said = self.judge(policy, reference)
        for name, value in said.items():
            self.sums.add(name, value)
        return loss

    def judge(
        self, policy: PairLogps, reference: Tensor | None
    ) -> tuple[LossSum, dict[str, LossSum]]:
        """The loss of some parts, and what is logged of them.

        Args:
            policy: N parts.
            reference: [N, 2], the better and the worse answer's; None: the loss needs none.
        """
        beside = None
        if reference is not None:
            better, worse = reference.to(policy.chosen).unbind(-1)
            beside = policy._replace(chosen=better, rejected=worse)
        loss = self.preference(policy, beside)
        with torch.no_grad():
            said = figures(policy, beside, self._beta(), shown_by(self.preference))
        if self.sft_weight:
            nll = -policy.chosen / policy.chosen_tokens.clamp(min=1)
            said["pref/nll"] = LossSum(nll.sum(), loss.count)
            loss = LossSum(loss.total + self.sft_weight * nll.sum(), loss.count)
        return loss, said

    def _beta(self) -> float | None:
        settings = getattr(self.preference, "keywords", {})
        return settings.get("refine_beta") or settings.get("beta")

    def open(self, job: Any) -> None:
        """Before the first step: what the reference gives the answers, unless a checkpoint said."""
        if self.reference is None and needs_reference(self.preference):
            self.reference = Reference.made(job)

    def validate(
        self,
        model: torch.nn.Module,
        streams: Mapping[str, Any],
        token_bytes: Any,
        **settings: Any,
    ) -> dict[str, dict[str, float]]:
        """Loss, accuracy and margin of each source's held-out pairs, nats."""
        return measure(self, model, streams, **settings)

    def write(self, folder: Path) -> None:
        """Keep the reference's figures with a checkpoint."""
        if self.reference is not None:
            self.reference.write(folder)

    def read(self, folder: Path) -> None:
        """Take them from a checkpoint."""
        if needs_reference(self.preference):
            self.reference = Reference.read(folder)


def refuse(sft_weight: float, losses: Mapping[str, Any]) -> None:
    """Refuse what the stage cannot do; also asked before a round samples for it.

    Raises:
        ConfigError: sft_weight is negative, or there are other losses.
    """
    if sft_weight < 0:
        raise ConfigError(f"stage.sft_weight={sft_weight} is negative; 0 switches it off")
    if losses:
        name = next(iter(losses))
        raise ConfigError(
            f"losses.{name}: stage=preference has its loss in `preference`, divided by pairs and "
            f"not by tokens; set losses.{name}=null"
        )


def figures(
    policy: PairLogps, reference: PairLogps | None, beta: float | None, kinds: Sequence[str]
) -> dict[str, LossSum]:
    """What is logged of N parts: sums and counts by name.

    The names depend on the settings alone, not on the parts: ranks add up what each has under one
    name, and one of them may have no part of a kind.

    D is the better answer's log-ratio less the worse one's, in nats; where the loss has no
    reference the ratio is the log-probability itself. `pref/kl` is the mean log-ratio of both
    answers: how far from the reference the policy is on these answers. Only where they were drawn
    from the policy is it an estimate of the Kullback-Leibler divergence.
    """
    zero = policy._replace(
        chosen=torch.zeros_like(policy.chosen), rejected=torch.zeros_like(policy.rejected)
    )
    base = zero if reference is None else reference
    distance = margins(policy, base)
    said = {}

    def add(name: str, values: Tensor) -> None:
        said[f"pref/{name}"] = LossSum(values.double().sum(), torch.tensor(len(values)))

    add("margin", distance)
    add("accuracy", distance > 0)
    for kind in kinds:
        own = distance[policy.shown == SHOWN.index(kind)]
        add(f"d_{kind}", own)
        add(f"accuracy_{kind}", own > 0)
        if beta is not None and kind != SHOWN[0]:
            add(f"beta_d_{kind}", beta * own)
    ratios = torch.cat((policy.chosen - base.chosen, policy.rejected - base.rejected))
    if reference is not None:
        add("kl", ratios)
    for name in ("chosen", "rejected"):
        add(f"{name}_logp", getattr(policy, name))
        add(f"{name}_tokens", getattr(policy, f"{name}_tokens"))
    return said
