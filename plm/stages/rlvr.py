"""Learning from rewards that are verified: the policy's own answers, weighed by their advantage.

A step's rollouts are drawn by the rollout engine when its first micro-batch comes; what they are
divided by is known on every process before it, so that a loss is a sum that neither micro-batches
nor ranks change. One sampling may be for several steps.

Paper: Lambert et al., Tülu 3 (arXiv:2411.15124), which names the method
Paper: Shao et al., DeepSeekMath: GRPO (arXiv:2402.03300)
"""

from collections.abc import Callable, Mapping
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from plm.batch import Batch, LossSum
from plm.data.order import permute
from plm.evaluation.common import seed_of
from plm.model.context import Context
from plm.rlvr import history, told
from plm.rlvr.alarms import Alarms
from plm.rlvr.critic import Settings as Fitting
from plm.rlvr.judging import judge
from plm.rlvr.measure import measure
from plm.rlvr.objective import Objective
from plm.rlvr.packing import dealt, packed
from plm.rlvr.rollouts import Drawn, Rollout
from plm.rlvr.sampler import Settings
from plm.rlvr.setup import Setup
from plm.stages.base import Stage


class RLVR(Stage):
    """A policy loss over rollouts.

    Args:
        policy: `(Tokens) -> Surrogate`, of configs/policy.
        advantage: `(Scored) -> [R]`, of configs/advantage.
        aggregation: `(lengths, longest=) -> [R]`, of configs/aggregation.
        environment: `(subject, asked) -> replies`, of configs/environment.
        rollouts: see plm.rlvr.sampler.Settings.
        divergence: of configs/divergence; None: the policy is compared with no reference.
        divergence_weight: factor on it.
        divergence_in: loss, or reward: there it is summed up over each rollout's tokens.
        correction: of configs/correction: factors for what the sampler's arithmetic changes.
        entropy_weight: factor on the entropy, which is subtracted from the loss.
        critic: of an advantage that needs values, see plm.rlvr.critic.Settings; None: no values.
        alarms: see plm.rlvr.alarms.Alarms.
        settings: of every stage.
    """

    main_loss = "policy"

    def __init__(
        self,
        model: torch.nn.Module,
        *,
        policy: Callable[..., Any],
        advantage: Callable[..., Tensor],
        aggregation: Callable[..., Tensor],
        environment: Callable[..., Any],
        rollouts: Mapping[str, Any],
        divergence: Callable[..., Tensor] | None = None,
        divergence_weight: float = 0.0,
        divergence_in: str = "loss",
        correction: Callable[..., Tensor] | None = None,
        entropy_weight: float = 0.0,
        critic: Mapping[str, Any] | None = None,
        alarms: Mapping[str, Any] | None = None,
        **settings: Any,
    ) -> None:
        super().__init__(model, **{**settings, "losses": {"policy": policy}})
        temperature = float(getattr(environment, "keywords", {}).get("temperature", 1.0))
        self.advantage, self.environment = advantage, environment
        self.drawing, self.alarms = Settings(**rollouts), Alarms(**(alarms or {}))
        self.critic = None if critic is None else Fitting(**critic)
        self.divergence, self.divergence_weight = divergence, divergence_weight
        self.in_reward = divergence is not None and divergence_in == "reward"
        self.objective = Objective(
            policy,
            aggregation,
            divergence=None if self.in_reward else divergence,
            divergence_weight=divergence_weight,
            correction=correction,
            entropy_weight=entropy_weight,
            temperature=temperature,
        )
        self.drawn: Drawn | None = None
        self.setup: Setup | None = None
        self.stored: Path | None = None
        self.turn: list[Rollout] = []
        self.hands: list[list[int]] = []
        self.shares = self.values = torch.zeros(0)
        self.gone_over = 0, 1

    def open(self, job: Any) -> None:
        """Before the first step: the sampler, the reference, and where a checkpoint stood."""
        self.setup = Setup.of(self, job)
        self.setup.restore(self.stored, job.start)

    def _begin(self, batch: Batch) -> None:
        super()._begin(batch)
        # A rollout's weight is its share of the whole step already.
        self._kept = 1.0
        planned = self.plan.at(batch.step)
        place = (batch.step - planned.first_step) % self.drawing.steps
        if place == 0 or self.drawn is None:
            self._draw(batch, planned)
        self._deal(batch, planned, place)

    def _draw(self, batch: Batch, planned: Any) -> None:
        """New rollouts, judged."""
        setup, groups = self.setup, planned.rows // self.drawing.group * self.drawing.updates
        longest = planned.phase.seq_len
        self.drawn = drawn = setup.sampler.draw(planned.phase.name, longest, groups)
        if self.drawing.steps > 1 or self.in_reward:
            setup.measure("old", self.model, drawn, planned)
        if self.divergence is not None:
            setup.measure("reference", setup.reference, drawn, planned)
        if setup.critic is not None:
            setup.measure("values", setup.critic.model, drawn, planned, setup.critic.values)
        judge(
            drawn,
            setup.prompts,
            self.advantage,
            divergence=self.divergence if self.in_reward else None,
            weight=self.divergence_weight,
            lam=self.critic.lam if self.critic else None,
        )
        first = setup.rank == 0
        if first:
            history.note(setup.folder, batch.step, drawn, setup.prompts)
        for name, (total, count) in told.of_drawn(drawn).items():
            # On one rank alone: they are of all of them.
            pair = torch.tensor([total, count], dtype=torch.float64, device=self.device)
            self.sums.add(f"rlvr/{name}", LossSum(*(pair * first).unbind()))
        self.alarms.look(batch.step, told.looked_at(drawn))

    def _deal(self, batch: Batch, planned: Any, place: int) -> None:
        """This step's rollouts, and which of them each micro-batch has."""
        size, number = self.drawing.group, len(self.drawn.rollouts) // self.drawing.group
        epoch, part = divmod(place, self.drawing.updates)
        order = np.arange(number)
        if self.drawing.updates > 1:
            key = seed_of(self.seed, f"rollouts/{batch.step - place}/{epoch}")
            order = permute(order, number, key)
        share = number // self.drawing.updates
        chosen = order[part * share : (part + 1) * share]
        self.turn = [self.drawn.rollouts[g * size + i] for g in chosen for i in range(size)]
        left_out = [self.drawing.mask_cut and one.cut for one in self.turn]
        lengths = torch.tensor(
            [0 if out else one.chosen for one, out in zip(self.turn, left_out, strict=True)]
        )
        shares = self.objective.aggregation(lengths, longest=self.drawing.max_new_tokens)
        self.shares = torch.where(lengths > 0, shares, 0).to(self.device)
        self.values = torch.tensor([one.advantage for one in self.turn], device=self.device)
        if self.setup.critic is not None:
            self._fit(batch, planned)
        always = self.objective.divergence is not None or bool(self.objective.entropy_weight)
        moves = torch.tensor([bool(one.advantage or any(one.advantages)) for one in self.turn])
        useful = (self.shares.cpu() > 0) & (always | moves)
        parts = -(-planned.rows // (self._world * len(batch.tokens)))
        sizes = [one.length for one in self.turn]
        hands = dealt(sizes, self._world, parts, useful.tolist())
        used = [sizes[index] for hand in hands for part in hand for index in part]
        self.gone_over, self.hands = (sum(used), len(used)), hands[self.setup.rank]

    def _fit(self, batch: Batch, planned: Any) -> None:
        """The value model's own step, before the policy's."""
        share = super().share(batch)
        said = self.setup.critic.learn(self.turn, planned, share=share, step=batch.step)
        for name, value in said.items():
            self.sums.add(f"rlvr/{name}", value)
        if batch.step < self.critic.warmup_steps:
            self.shares = torch.zeros_like(self.shares)

    def share(self, batch: Batch) -> float:
        """None while the values alone are fitted, so that not even a decay moves the policy."""
        fitting = self.critic is not None and batch.step < self.critic.warmup_steps
        return 0.0 if fitting else super().share(batch)

    def compute(self, batch: Batch) -> dict[str, LossSum]:
        """The loss of a micro-batch's rollouts."""
        phase = self.plan.at(batch.step).phase
        mine = self.hands.pop(0)
        windows, known, owner = packed([self.turn[i] for i in mine], phase.seq_len, batch)
        windows = windows.to(self.device)
        given = {
            "known": {name: values.to(self.device) for name, values in known.items()},
            "owner": owner.to(self.device),
            "advantages": self.values[mine],
            "weights": self.shares[mine],
        }
        return self.model(
            windows.tokens,
            context=Context.of(windows, rope_theta=phase.rope_theta),
            labels=windows.labels,
            losses={"policy": partial(self._loss, given=given)},
            regularizers=self.regularizers.get(phase.name),
        ).losses

    def _loss(
        self,
        hidden: Tensor,
        head_weight: Tensor,
        labels: Tensor,
        *,
        given: dict[str, Any],
        kernels: str = "auto",
    ) -> LossSum:
        loss, said, most = self.objective.loss(
            hidden, head_weight, labels, kernels=kernels, **given
        )
        for name, value in said.items():
            self.sums.add(name, value)
        for name, value in most.items():
            self.sums.most(f"rlvr/{name}", value)
        return loss

    def worked(self, batch: Batch) -> tuple[int, int]:
        """Tokens of the rollouts that had a gradient, and their mean length."""
        tokens, number = self.gone_over
        return tokens, max(1, tokens // number)

    def samples(self, job: Any) -> list[dict[str, Any]]:
        """Answers of the last sampling with their rewards."""
        decode = partial(self.setup.tokenizer.decode, skip_special_tokens=False)
        return told.shown(self.drawn, decode, job.settings["samples"]["number"])

    def validate(
        self, model: torch.nn.Module, streams: Mapping[str, Any], *args: Any, **settings: Any
    ) -> dict[str, dict[str, float]]:
        """Of each source with held-out prompts: the mean reward; `loss` is what it lacks of 1."""
        return measure(self.setup, streams, **settings)

    def write(self, folder: Path) -> None:
        """Keep the rollouts and the cursor with a checkpoint."""
        self.setup.write(folder, self.drawn)
        self.alarms.write(folder)

    def read(self, folder: Path) -> None:
        """Take them from a checkpoint, once the run is open."""
        self.drawn, self.stored = Drawn.read(folder), folder
        self.alarms.read(folder)
