"""Rollouts of the policy as it is now: prompts drawn, answered, and scored.

What is drawn for a prompt depends on (seed, number of the draw) alone, not on how many processes
share the prompts out.
"""

from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch

from plm.environment.common import Asked, Reply
from plm.errors import ConfigError
from plm.evaluation.common import seed_of
from plm.policy.common import check_choice
from plm.reward.common import Example, score
from plm.rlvr.cursor import Cursor, Draw
from plm.rlvr.prompts import PromptSet, Source
from plm.rlvr.rollouts import Drawn, Rollout
from plm.rounds.common import Answer


@dataclass(frozen=True)
class Settings:
    """How rollouts are drawn; see configs/rollouts/plm.yaml.

    Raises:
        ConfigError: a value is out of its range.
    """

    group: int = 8
    updates: int = 1
    epochs: int = 1
    max_new_tokens: int = 256
    dynamic: bool = False
    tries: int = 4
    mask_cut: bool = False
    rows: int = 128
    compiled: bool | str = "auto"
    engine: str = "plm"
    vllm: Mapping[str, Any] = field(default_factory=dict)

    def __post_init__(self) -> None:
        for name, least in {
            "group": 1, "updates": 1, "epochs": 1, "max_new_tokens": 1, "tries": 1, "rows": 1
        }.items():  # fmt: skip
            value = getattr(self, name)
            if isinstance(value, bool) or not isinstance(value, int) or value < least:
                raise ConfigError(f"rollouts.{name}={value} must be a whole number from {least} on")
        if self.dynamic and self.group == 1:
            raise ConfigError("rollouts.dynamic=true: a group of one has no variance to look for")
        check_choice("rollouts", ("plm", "vllm"), engine=self.engine)
        if self.vllm and self.engine != "vllm":
            raise ConfigError("rollouts.vllm has no effect; set rollouts.engine=vllm")
        for name in ("dynamic", "mask_cut"):
            if not isinstance(getattr(self, name), bool):
                raise ConfigError(f"rollouts.{name}={getattr(self, name)} must be true or false")

    @property
    def steps(self) -> int:
        """Optimizer steps that one sampling is for."""
        return self.updates * self.epochs


class Sampler:
    """Draws the rollouts of a run.

    Args:
        prompts: the run's sources.
        cursor: which prompt comes when.
        environment: `(subject, asked) -> replies`.
        settings: how.
        seed: of every draw.
        subject: `() -> Subject`, of the weights as they are.
        rank, world_size: the processes share the prompts out.
    """

    def __init__(
        self,
        prompts: PromptSet,
        cursor: Cursor,
        environment: Callable[..., list[Reply]],
        settings: Settings,
        *,
        seed: int,
        subject: Callable[[], Any],
        rank: int = 0,
        world_size: int = 1,
    ) -> None:
        self.prompts, self.cursor, self.environment = prompts, cursor, environment
        self.settings, self.seed, self.subject = settings, seed, subject
        self.rank, self.world_size = rank, world_size

    def draw(self, phase: str, longest: int, groups: int) -> Drawn:
        """So many groups of rollouts.

        Args:
            phase: whose mixture the prompts come from.
            longest: tokens of prompt and answer.
            groups: how many.
        """
        subject, told = self.subject(), Counter[str]()
        kept: list[list[Rollout]] = []
        left: list[list[Rollout]] = []
        for _ in range(self.settings.tries if self.settings.dynamic else 1):
            draws = self.cursor.take(phase, groups - len(kept))
            found = self._gathered(self._answered(subject, draws, longest))
            told.update(_counts(found, self.prompts))
            for group in found:
                varies = not self.settings.dynamic or _varies(group)
                (kept if varies else left).append(group)
            if len(kept) == groups:
                break
        # As many as a step's budget says: those without variance fill up, and teach nothing.
        told["unfilled"] = groups - len(kept)
        kept = sorted([*kept, *left[: groups - len(kept)]], key=lambda group: group[0].number)
        return Drawn([one for group in kept for one in group], self.settings.group, dict(told))

    def _answered(self, subject: Any, draws: Sequence[Draw], longest: int) -> list[list[Rollout]]:
        mine = draws[self.rank :: self.world_size]
        sources = [self.prompts.sources[draw.source] for draw in mine]
        asked = []
        for draw, source in zip(mine, sources, strict=True):
            prompt = source.prompts[draw.item]
            asked.append(
                Asked(
                    prompt,
                    min(self.settings.max_new_tokens, longest - len(prompt)),
                    seed_of(self.seed, f"{draw.number}/{source.items[draw.item].name}"),
                    self.settings.group,
                    source.items[draw.item],
                )
            )
        with torch.no_grad():
            replies = iter(self.environment(subject, asked))
        groups = [
            [_rollout(draw, sample, one.prompt, next(replies)) for sample in range(one.group)]
            for draw, one in zip(mine, asked, strict=True)
        ]
        for name in dict.fromkeys(draw.source for draw in mine):
            some = [one for group in groups for one in group if one.source == name]
            rewarded(self.prompts.sources[name], some)
        return groups

    def _gathered(self, mine: list[list[Rollout]]) -> list[list[Rollout]]:
        """Of all processes, in the order of the draws."""
        if self.world_size == 1:
            return mine
        parts: list[Any] = [None] * self.world_size
        torch.distributed.all_gather_object(parts, mine)
        return sorted((group for part in parts for group in part), key=lambda g: g[0].number)


def _rollout(draw: Draw, sample: int, prompt: list[int], reply: Reply) -> Rollout:
    return Rollout(
        number=draw.number,
        sample=sample,
        source=draw.source,
        item=draw.item,
        prompt=prompt,
        tokens=reply.tokens,
        learn=reply.learn,
        sampled=reply.sampled,
        text=reply.text,
        cut=reply.cut,
        told=reply.told,
    )


def rewarded(source: Source, rollouts: Sequence[Rollout]) -> None:
    """Put its rewards into each rollout of one source."""
    grade = getattr(source.task, "grade", None)
    examples = []
    for one in rollouts:
        item = source.items[one.item]
        answer = Answer(one.text, 0, one.sample, one.chosen, one.cut)
        examples.append(Example(item.question, item, one.cut, grade, answer))
    texts = [one.text for one in rollouts]
    for kind, reward in source.rewards.items():
        before = _failures(reward)
        for one, value in zip(rollouts, score(reward, texts, examples), strict=True):
            one.rewards[kind] = value
        if failed := _failures(reward) - before:
            # Which answers they were is not known; logged is their share.
            rollouts[0].told[f"failed/{source.name}.{kind}"] = float(failed)
    for one in rollouts:
        one.reward = sum(source.weights[kind] * value for kind, value in one.rewards.items())


def _failures(reward: Any) -> int:
    """On how many completions a reward has failed so far."""
    return sum(getattr(reward, "failures", {}).values())


def _varies(group: Sequence[Rollout]) -> bool:
    return any(one.reward != group[0].reward for one in group)


def _counts(groups: Sequence[Sequence[Rollout]], prompts: PromptSet) -> Counter[str]:
    """Of all groups that were drawn, those that are left out as well."""
    told: Counter[str] = Counter()
    for group in groups:
        # Solved: the kind that its source names first says 1.
        first = next(iter(prompts.sources[group[0].source].rewards))
        solved = sum(one.rewards[first] >= 1 for one in group)
        told["groups"] += 1
        told["same"] += not _varies(group)
        told["solved_all"] += solved == len(group)
        told["solved_none"] += solved == 0
    return told
