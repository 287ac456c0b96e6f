"""What a run that learns from rewards has besides its stage: sampler, reference, their state."""

import copy
import json
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save_file
from torch import nn

from plm import checkpoint, pretrained
from plm.batch import Batch
from plm.checkpoint import write_atomic
from plm.config import build
from plm.environment.single import single
from plm.errors import CheckpointError
from plm.evaluation.subject import Subject
from plm.model.context import Context
from plm.rlvr.critic import Critic
from plm.rlvr.cursor import Cursor
from plm.rlvr.objective import Scorer
from plm.rlvr.packing import dealt, packed
from plm.rlvr.policy import Policy, whole_weights
from plm.rlvr.prompts import PromptSet
from plm.rlvr.rollouts import Drawn
from plm.rlvr.sampler import Sampler

CURSOR = "cursor.json"
REFERENCE = "reference.safetensors"


@dataclass
class Setup:
    """One rank's parts beside the stage.

    Attributes:
        folder: the run's.
        prompts: the sources.
        cursor: which prompt comes when.
        sampler: draws rollouts.
        environment: that held-out prompts are answered in; None: as their task draws answers.
        subject: `() -> Subject` of the weights as they are.
        tokenizer: a tokenizers.Tokenizer.
        reference: the model that the divergence is from; None: there is none.
        temperature: of the draws.
        micro: rollouts of one forward.
        device: that trains.
        rank, world_size: of the processes.
        critic: the value model; None: there is none.
    """

    folder: Path
    prompts: PromptSet
    cursor: Cursor
    sampler: Sampler
    environment: Callable[..., Any] | None
    subject: Callable[[], Subject]
    tokenizer: Any
    reference: nn.Module | None
    temperature: float
    micro: int
    device: torch.device
    rank: int
    world_size: int
    critic: Critic | None = None

    @classmethod
    def of(cls, stage: Any, job: Any) -> "Setup":
        """For a stage whose weights are in place."""
        prompts, cursor, settings = job.prepared, job.order, job.settings
        policy = Policy(stage, job)
        subject = policy.subject
        sampler = Sampler(
            prompts,
            cursor,
            stage.environment,
            stage.drawing,
            seed=settings["seed"],
            subject=policy.sampler,
            rank=job.rank,
            world_size=job.world,
        )
        return cls(
            folder=job.folder.path,
            prompts=prompts,
            cursor=cursor,
            sampler=sampler,
            environment=None if _plain(stage.environment) else stage.environment,
            subject=subject,
            tokenizer=subject().tokenizer,
            reference=_reference(stage, job) if stage.divergence is not None else None,
            temperature=stage.objective.temperature,
            micro=settings["micro_batch_size"],
            device=stage.device,
            rank=job.rank,
            world_size=job.world,
            critic=_critic(stage, job) if stage.critic is not None else None,
        )

    @torch.no_grad()
    def measure(
        self,
        name: str,
        model: nn.Module,
        drawn: Drawn,
        planned: Any,
        scorer: Callable[..., torch.Tensor] | None = None,
    ) -> None:
        """Put the log-probability of each token under a model into the rollouts.

        Args:
            name: field of a Rollout: old, reference or values.
            model: policy, reference or value model; its mode is restored.
            drawn: changed in place, on every process.
            planned: the phase.
            scorer: what of each token is put there instead; called in a loss's place.
        """
        scorer = scorer or Scorer(self.temperature)
        rollouts, size = drawn.rollouts, planned.phase.seq_len
        # Filled up, so that every process runs as many forwards as the others.
        count = -(-len(rollouts) // self.world_size) * self.world_size
        lengths = [rollouts[i % len(rollouts)].length for i in range(count)]
        parts = -(-count // (self.world_size * self.micro))
        mine = dealt(lengths, self.world_size, parts)[self.rank]
        training, found = model.training, {}
        model.eval()
        for some in mine:
            chosen = [rollouts[i % len(rollouts)] for i in some]
            empty = torch.zeros(0, 0, dtype=torch.int64)
            windows, _, owner = packed(chosen, size, Batch(empty, empty, empty))
            windows = windows.to(self.device)
            scores = model(
                windows.tokens,
                context=Context.of(windows, rope_theta=planned.phase.rope_theta),
                labels=windows.labels,
                losses={name: scorer},
            ).losses[name]
            scores = scores.float().cpu()
            for place, index in enumerate(some):
                own = scores[owner == place].tolist()
                found[index % len(rollouts)] = chosen[place].spread(own)
        model.train(training)
        shared: list[Any] = [found]
        if self.world_size > 1:
            shared = [None] * self.world_size
            torch.distributed.all_gather_object(shared, found)
        for part in shared:
            for index, values in part.items():
                setattr(rollouts[index], name, values)

    def write(self, folder: Path, drawn: Drawn | None) -> None:
        """Keep the rollouts, the cursor and the value model."""
        if drawn is not None:
            drawn.write(folder)
        if self.critic is not None:
            self.critic.write(folder)
        write_atomic(folder / CURSOR, json.dumps(self.cursor.state()))

    def restore(self, folder: Path | None, start: Any) -> None:
        """Set the cursor and the value model to where a checkpoint has them.

        Args:
            folder: the run's own; None: it begins.
            start: where it began; one that hands over everything has the values to go on with.
        Raises:
            CheckpointError: it has none.
        """
        if self.critic is not None and (folder is not None or start.everything):
            self.critic.read(folder or start.path)
        if folder is None:
            return
        try:
            self.cursor.load(json.loads((folder / CURSOR).read_text(encoding="utf-8")))
        except (OSError, ValueError, KeyError) as error:
            raise CheckpointError(f"{folder / CURSOR} cannot be read: {error}") from error


def _plain(environment: Any) -> bool:
    return getattr(environment, "func", environment) is single


def _critic(stage: Any, job: Any) -> Critic:
    """A copy of the policy as it is; what a checkpoint has comes by `restore`."""
    if stage.placement.whole_weights:
        model = copy.deepcopy(stage.model)
    else:
        model = build(job.settings["model"]).to(stage.device)
        model.load_state_dict(whole_weights(stage))
    return Critic(
        model,
        stage.critic,
        device=stage.device,
        rank=job.rank,
        world_size=job.world,
        micro=job.settings["micro_batch_size"],
        seed=job.settings["seed"],
    )


def _reference(stage: Any, job: Any) -> nn.Module:
    """The weights that the run began from, frozen."""
    path = job.folder.path / REFERENCE
    model = copy.deepcopy(stage.model) if stage.placement.whole_weights else None
    if model is None:
        model = build(job.settings["model"]).to(stage.device)
    if not job.resumed:
        weights = whole_weights(stage)
        if job.rank == 0:
            plain = {k: v.detach().cpu().contiguous() for k, v in weights.items()}
            save_file(plain, path)
    elif path.is_file():
        weights = checkpoint.read_weights(path.parent, "reference")
    else:
        origin = job.origin["path"]
        weights = pretrained.load(origin).model.state_dict()
    model.load_state_dict(weights)
    return model.requires_grad_(False).eval()
