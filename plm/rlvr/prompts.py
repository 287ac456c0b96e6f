"""The prompts of a run that learns from rewards, in the place of prepared data.

A source is a task, whose items are asked, with the rewards of their answers. Nothing is prepared:
a prompt is made into tokens as the model's conversations are.
"""

import hashlib
import json
import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from plm import handoff
from plm.config import build
from plm.data import tokenizer as bpe
from plm.errors import ConfigError
from plm.evaluation.generated import Item
from plm.phases import Plan
from plm.reward.common import Guarded, check


@dataclass(frozen=True)
class Source:
    """One source of prompts.

    Attributes:
        name: its key in data.sources.
        task: what grades answers; it may have no grade.
        rewards: by kind.
        weights: of each kind.
        items: those that leave room for an answer.
        prompts: ids, one list an item.
        held_out: a task that is only measured on; None: there is none.
    """

    name: str
    task: Any
    rewards: Mapping[str, Callable[..., float]]
    weights: Mapping[str, float]
    items: list[Item]
    prompts: list[list[int]]
    held_out: Any = None

    @property
    def n_tokens(self) -> int:
        """Prompts: what a mixture's weight `tokens` counts here."""
        return len(self.items)


@dataclass
class PromptSet:
    """All sources of a run; it is to a Job what plm.data.prepared.Prepared is.

    Attributes:
        sources: by name.
        tokenizer_path, end_of_text, chat_template, vocab_size: of the model that it begins from.
        block_tokens: longest rollout.
        fingerprint: sha256, hex, over all prompts and what is known of them.
        manifest: what the run's own says of its data.
    """

    sources: dict[str, Source]
    tokenizer_path: Path
    end_of_text: str
    chat_template: str | None
    vocab_size: int
    block_tokens: int
    fingerprint: str
    manifest: dict[str, Any]
    packed: list[str] = field(default_factory=list)
    pairs: list[str] = field(default_factory=list)
    token_bytes: None = None

    @property
    def streams(self) -> dict[str, Source]:
        """The sources, as a Job asks for their sizes."""
        return self.sources

    @property
    def held_out(self) -> dict[str, Source]:
        """The sources, as they are measured."""
        return self.sources

    def describe(self) -> str:
        """One line on all of it."""
        parts = []
        for name, source in self.sources.items():
            kinds = ", ".join(f"{kind} x {weight:g}" for kind, weight in source.weights.items())
            long = self.manifest.get("sources", {}).get(name, {}).get("too_long", 0)
            left = f" ({long:,} left out, longer than seq_len)" if long else ""
            parts.append(f"{name} {len(source.items):,} prompts{left}, rewarded for {kinds}")
        return "; ".join(parts)


def wanted(settings: Mapping[str, Any]) -> bool:
    """Whether a run's data are prompts."""
    return "sources" in settings["data"]


def open_prompts(settings: Mapping[str, Any], start: Any, resumed: bool) -> PromptSet:
    """The prompts that the node `data` names.

    Args:
        settings: of the run.
        start: a plm.handoff.Start: the run's own checkpoint, if resumed, else what it begins from.
        resumed: the run has a checkpoint.
    Raises:
        ConfigError: a source that cannot work, or whose prompts leave no room for an answer.
    """
    data, plan = settings["data"], Plan.read(settings["phases"])
    path = start.path / handoff.TOKENIZER if resumed else Path(data["tokenizer"])
    tokenizer = bpe.load(path)
    template = data["chat_template"] or handoff.chat_template(start)
    longest = {
        name: min(p.phase.seq_len for p in plan.phases if name in p.phase.mixture)
        for name in plan.sources()
    }
    sources, told = {}, {}
    for name, node in data["sources"].items():
        if node is None or name not in longest:
            continue
        encode = _encoder(path, tokenizer, data["end_of_text"], template, settings)
        sources[name], told[name] = _open(name, node, encode, longest[name])
    if not sources:
        raise ConfigError(
            f"phases: no mixture names one of data.sources ({', '.join(data['sources'])})"
        )
    about = {n: [[i.name, i.question, i.answer] for i in s.items] for n, s in sources.items()}
    mark = hashlib.sha256(json.dumps(about, sort_keys=True).encode()).hexdigest()
    manifest = {"recipe": "prompts", "sources": told, "comparable": True}
    return PromptSet(
        sources=sources,
        tokenizer_path=path,
        end_of_text=data["end_of_text"],
        chat_template=template,
        vocab_size=data["vocab_size"],
        block_tokens=plan.max_seq_len,
        fingerprint=mark,
        manifest=manifest,
    )


def _encoder(
    path: Path, tokenizer: Any, end_of_text: str, template: str | None, settings: Mapping[str, Any]
) -> Callable[[Item], list[int]]:
    """Ids of an item's prompt, for a model with or without conversations."""
    from plm.evaluation.subject import chat_for
    from plm.pretrained import Pretrained

    about = Pretrained(path.parent, None, path, end_of_text, chat_template=template)
    chat = chat_for(about, "auto")
    if chat is not None:
        return lambda item: list(chat.prompt([{"role": "user", "content": item.question}]))
    return lambda item: bpe.encode_batch(tokenizer, [item.text])[0].tolist()


def _open(
    name: str, node: Mapping[str, Any], encode: Callable[[Item], list[int]], longest: int
) -> tuple[Source, dict[str, Any]]:
    where = f"data.sources.{name}"
    if not node.get("prompts"):
        raise ConfigError(f"{where}.prompts is missing: choose one, for example prompts=exercises")
    task, rewards = build(node["prompts"]), built_rewards(node, where)
    for reward in rewards.values():
        check(reward, graded=getattr(task, "grade", None) is not None)
    weights = _weights(node.get("weights") or {}, rewards, f"{where}.weights")
    items, prompts, long = [], [], 0
    for item in _chosen(task.items, node.get("only"), where):
        ids = encode(item)
        if len(ids) >= longest:
            long += 1
            continue
        items.append(item)
        prompts.append(ids)
    if not items:
        raise ConfigError(
            f"{where}: all {long} prompts are longer than the phase's seq_len={longest}, with no "
            "room for an answer; raise seq_len, or take others"
        )
    held_out = build(node["held_out"]) if node.get("held_out") else None
    if held_out is not None and not (hasattr(held_out, "grade") and hasattr(held_out, "answered")):
        raise ConfigError(f"{where}.held_out is no task whose answers are graded; leave it out")
    told = {
        "prompts": len(items),
        "too_long": long,
        "notes": list(getattr(task, "notes", [])),
        "rewards": {kind: weights[kind] for kind in rewards},
    }
    return Source(name, task, rewards, weights, items, prompts, held_out), told


def _weights(given: Mapping[str, Any], rewards: Mapping[str, Any], where: str) -> dict[str, float]:
    """Of each kind of reward its weight, 1 where nothing is said."""
    for kind, weight in given.items():
        if kind not in rewards:
            raise ConfigError(
                f"{where}.{kind}: there is no such reward; there are {', '.join(rewards)}"
            )
        counts = isinstance(weight, int | float) and not isinstance(weight, bool)
        if not counts or not math.isfinite(weight):
            raise ConfigError(f"{where}.{kind}={weight} must be a number; 0 only logs the reward")
    return {kind: float(given.get(kind, 1.0)) for kind in rewards}


def _chosen(items: list[Item], only: list[str] | None, where: str) -> list[Item]:
    """The items of these names; all of them without any."""
    if not only:
        return items
    named = {item.name: item for item in items}
    missing = [name for name in only if name not in named]
    if missing:
        near = ", ".join(list(named)[:3])
        raise ConfigError(f"{where}.only: there is no prompt {missing[0]!r}; some are {near}")
    return [named[name] for name in only]


def built_rewards(node: Mapping[str, Any], where: str) -> dict[str, Any]:
    """The rewards of a source, by kind.

    Raises:
        ConfigError: there is none.
    """
    given = (node.get("rewards") or {}).items()
    rewards = {kind: Guarded(build(one), f"{where}.rewards.{kind}") for kind, one in given if one}
    if not rewards:
        raise ConfigError(f"{where}.rewards is empty; choose one, for example reward=verifier")
    return rewards
