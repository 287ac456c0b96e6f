"""What every stage shares: one optimizer step over micro-batches, counted in tokens."""

import logging
import time
from collections.abc import Callable, Mapping
from fnmatch import fnmatch
from typing import Any

import lightning.pytorch as pl
import torch
from torch import nn

from plm.batch import Batch, LossSum
from plm.compiling import compile_layers
from plm.errors import ConfigError, GuardStop
from plm.evaluation.common import seed_of
from plm.metrics import Sums
from plm.model.common import fresh_weights
from plm.optimizer.common import NamedParameter
from plm.phases import Plan, PlannedPhase
from plm.stages.evaluate import validate
from plm.stages.samples import draw
from plm.strategies import placement, shard
from plm.transform.common import Transforms

log = logging.getLogger("plm")

MAX_BAD_STEPS = 5


class Stage(pl.LightningModule):
    """A model in training; a stage gives `compute`, from a micro-batch to its losses.

    Args:
        model: its root computes the losses itself.
        plan: the phases.
        schedule: `(tokens_seen) -> share of the peak rate`.
        make_optimizer: `(named parameters, lr=) -> Optimizer`.
        peak_lr: rate at share 1.
        losses: by name, each divided by the kept labels of the whole global batch.
        clip_norm: largest gradient norm; 0: none.
        seed: of every draw, with the step.
        transforms: what changes the model, by tokens.
        regularizers: of each phase, by the phase's name.
        compile_layers: run each layer through torch.compile.
        rate_factors: of each phase, on the peak rate, by the phase's name; what is not there is 1.
    """

    automatic_optimization = False
    # Called `loss` in tables and plots.
    main_loss = "cross_entropy"
    validate, samples = staticmethod(validate), staticmethod(draw)

    def __init__(
        self,
        model: nn.Module,
        *,
        plan: Plan,
        schedule: Callable[[int], float],
        make_optimizer: Callable[..., torch.optim.Optimizer],
        peak_lr: float,
        losses: Mapping[str, Callable[..., LossSum]],
        clip_norm: float,
        seed: int,
        transforms: Transforms,
        regularizers: Mapping[str, Mapping[str, Callable[..., LossSum]]],
        compile_layers: bool = False,
        rate_factors: Mapping[str, float] | None = None,
    ) -> None:
        super().__init__()
        if clip_norm < 0:
            raise ConfigError(f"clip_norm={clip_norm} is negative; 0 switches clipping off")
        self.model, self.plan, self.schedule = model, plan, schedule
        self.make_optimizer, self.peak_lr = make_optimizer, peak_lr
        self.losses, self.clip_norm, self.seed = losses, clip_norm, seed
        self.transforms, self.regularizers = transforms, regularizers
        self.compile_layers, self.compiled = compile_layers, False
        self.rate_factors = rate_factors or {}
        self.step, self.tokens_seen, self.sums = 0, plan.origin_tokens, Sums()
        self.bad_steps, self.bad_in_a_row = 0, 0
        self.grad_norm, self.lr, self.step_seconds = torch.zeros(()), 0.0, 0.0
        self.stop_asked, self.stop_agreed, self.row = False, False, {}
        self._planned: PlannedPhase | None = None
        self._frozen: list[nn.Parameter] = []
        self._kept, self._world, self._begun = 1.0, 1, time.perf_counter()

    def compute(self, batch: Batch) -> dict[str, LossSum]:
        """Losses of a micro-batch, by name."""
        raise TypeError(f"{type(self).__name__} gives no compute")

    def open(self, job: Any) -> None:
        """Before the first evaluation, a checkpoint's state being taken over."""

    def worked(self, batch: Batch) -> tuple[int, int]:
        """Tokens that a step has gone over, on all ranks, and how long their windows are."""
        return (phase := self.plan.at(batch.step).phase).global_batch_tokens, phase.seq_len

    def configure_model(self) -> None:
        """Share the weights out where the strategy wants that; compile the layers if asked to."""
        mesh = getattr(self.trainer.strategy, "_device_mesh", None)
        if mesh is not None and not getattr(self.model, "_plm_sharded", False):
            shard(self.model, mesh["data_parallel"])
            self.model._plm_sharded = True
        self.compiled = self.compile_layers and compile_layers(self.model)

    def configure_optimizers(self) -> torch.optim.Optimizer:
        """The optimizer over all parameters that learn, each named with its role."""
        self.placement = placement(self)
        optimizer = self.make_optimizer(self.named(), lr=self.peak_lr)
        needs_whole = getattr(optimizer, "needs_whole_matrices", False)
        if needs_whole and not self.placement.whole_matrices:
            raise ConfigError(
                "optimizer=muon needs whole matrices, which DeepSpeed's flat shards are not; "
                "use trainer=ddp or trainer=fsdp, or optimizer=adamw"
            )
        return optimizer

    def named(self) -> list[NamedParameter]:
        """Every parameter with its name and role."""
        roles, asked = self.model.roles(), self.model.parameter_settings()
        named = self.model.named_parameters()
        return [NamedParameter(n, p, roles.get(n, "other"), **asked.get(n, {})) for n, p in named]

    @property
    def rope_theta(self) -> float | None:
        """The rotary base of the phase that the weights come from; None: the model's own."""
        return self.plan.at(max(self.step - 1, 0)).phase.rope_theta

    def training_step(self, batch: Batch, index: int) -> None:
        """One micro-batch; the step's last one also moves the weights."""
        if batch.first:
            self._begin(batch)
        torch.manual_seed(seed_of(self.seed, f"{batch.step}/{batch.first_row}"))
        found = self.compute(batch)
        terms = []
        for name, loss in found.items():
            self.sums.add(name, loss)
            if name in self.losses or name.startswith("heads."):
                terms.append(loss.total / self._kept)
            else:
                # Counts of parts' own losses depend on the shape alone: scale by share of rows.
                rows = len(batch.tokens) / batch.rows_in_step
                terms.append(loss.total / loss.count.clamp(min=1) * rows)
        with self.placement.accumulate(batch.last):
            self.manual_backward(torch.stack([t.float() for t in terms]).sum() * self._world)
        if batch.last:
            self._finish(batch)

    def _begin(self, batch: Batch) -> None:
        self._begun = time.perf_counter()
        planned = self.plan.at(batch.step)
        if planned is not self._planned:
            self._enter(planned)
        self._world = self.trainer.world_size
        shared = torch.tensor(
            [float(batch.kept_in_step), float(self.stop_asked)], device=self.device
        ).double()
        if self._world > 1:
            torch.distributed.all_reduce(shared)
        self._kept, self.stop_agreed = max(float(shared[0]), 1.0), bool(shared[1] > 0)

    def _enter(self, planned: PlannedPhase) -> None:
        """What a phase changes besides its data and rate."""
        self._planned = planned
        self._freeze(planned)
        if self.transforms.due(planned, self.tokens_seen):
            self._transform(planned)

    def _freeze(self, planned: PlannedPhase) -> None:
        # Where there are adapters, they alone learn unless the phase says otherwise.
        patterns, self._frozen = planned.phase.trainable or fresh_weights(self.model), []
        asked = self.model.parameter_settings()
        if patterns and not self.placement.freezes:
            raise ConfigError(
                f"phases.{planned.phase.name}.trainable cannot be used with DeepSpeed, which takes "
                "all weights over; use trainer=single, ddp or fsdp"
            )
        for name, parameter in self.model.named_parameters():
            if asked.get(name, {}).get("frozen"):
                continue
            learns = not patterns or any(fnmatch(name, p) for p in patterns)
            if self._structure_fixed():
                # DDP waits for every gradient that it saw when it was set up: they are made, and
                # dropped before the step.
                self._frozen += [] if learns else [parameter]
            else:
                parameter.requires_grad_(learns)

    def _transform(self, planned: PlannedPhase) -> None:
        if self._structure_fixed():
            raise ConfigError(
                f"phases.{planned.phase.name}.transforms change a model that is shared out or "
                "wrapped; use one process for this phase"
            )
        before = {id(p) for p in self.model.parameters()}
        self.transforms.apply(self.model, self.placement.optimizer, planned, self.tokens_seen)
        if {id(p) for p in self.model.parameters()} != before:
            self._rebuild_optimizer()

    def _structure_fixed(self) -> bool:
        sharded = getattr(self.model, "_plm_sharded", False)
        return sharded or self.trainer.strategy.model is not self

    def _rebuild_optimizer(self) -> None:
        """After a transform swapped parameters: those that stayed keep their state."""
        old = self.placement.optimizer
        new = self.make_optimizer(self.named(), lr=self.peak_lr)
        for group in new.param_groups:
            for parameter in group["params"]:
                if parameter in old.state:
                    new.state[parameter] = old.state[parameter]
        self.trainer.strategy.optimizers = [new]

    def share(self, batch: Batch) -> float:
        """Of the peak rate, that a batch's step has."""
        phase = self.plan.at(batch.step).phase
        factor = self.rate_factors.get(phase.name, 1.0)
        return self.schedule(batch.tokens_seen + phase.global_batch_tokens) * factor

    def _finish(self, batch: Batch) -> None:
        planned = self.plan.at(batch.step)
        step_tokens = planned.phase.global_batch_tokens
        for parameter in self._frozen:
            parameter.grad = None
        self.grad_norm = self.placement.clip(self.clip_norm)
        share = self.share(batch)
        optimizer = self.placement.optimizer
        for group in optimizer.param_groups:
            group["lr"] = group["initial_lr"] * share
        self.lr = self.peak_lr * share
        if self.placement.step(self.grad_norm):
            self.bad_in_a_row = 0
            self.grad_norm = self.placement.norm(self.grad_norm)
        else:
            self._skip(batch)
        self.zero_grad(set_to_none=True)
        self.step, self.tokens_seen = batch.step + 1, batch.tokens_seen + step_tokens
        if self.transforms.due_within(planned, batch.tokens_seen, self.tokens_seen):
            self._transform(planned)
        self.step_seconds += time.perf_counter() - self._begun

    def _skip(self, batch: Batch) -> None:
        """A gradient that is not a number leaves the weights as they are; too many end the run."""
        self.bad_steps += 1
        self.bad_in_a_row += 1
        if self.bad_in_a_row >= MAX_BAD_STEPS:
            raise GuardStop(
                f"the gradient was not finite for {MAX_BAD_STEPS} steps up to step {batch.step} "
                f"({batch.tokens_seen} tokens); lower scale.peak_lr or look at that data"
            )
