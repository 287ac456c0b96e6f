"""When transforms act, what they did, and doing it again before weights are loaded."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import nn

from plm.config import build
from plm.phases import PlannedPhase

Transform = Callable[[nn.Module, torch.optim.Optimizer | None, int], None]


@dataclass
class Transforms:
    """The transforms of a run.

    Attributes:
        built: `(model, optimizer, tokens_seen) -> None`, by phase and name.
        every_tokens: how often each acts; 0: once, at the phase's entry.
        nodes: what each was built from, by phase and name: it is recorded, for a run whose phases
            no longer name it.
        done: what acted, in order: phase, name, tokens_seen and node of each; stored in
            checkpoints.
    """

    built: Mapping[str, Mapping[str, Transform]] = field(default_factory=dict)
    every_tokens: Mapping[str, Mapping[str, int]] = field(default_factory=dict)
    nodes: Mapping[str, Mapping[str, Any]] = field(default_factory=dict)
    done: list[dict[str, Any]] = field(default_factory=list)

    @classmethod
    def of(cls, phases: Sequence[PlannedPhase]) -> "Transforms":
        """Those that the phases name, built."""
        nodes = {
            p.phase.name: {
                key: {k: v for k, v in node.items() if k != "every_tokens"}
                for key, node in p.phase.transforms.items()
            }
            for p in phases
        }
        return cls(
            built={n: {k: build(node) for k, node in of.items()} for n, of in nodes.items()},
            nodes=nodes,
            every_tokens={
                p.phase.name: {k: n.get("every_tokens", 0) for k, n in p.phase.transforms.items()}
                for p in phases
            },
        )

    def due(self, planned: PlannedPhase, tokens_seen: int) -> bool:
        """Is there one to act at the entry of a phase, that has not done so before a resume?"""
        if tokens_seen != planned.start_tokens:
            return False
        entered = {(e["phase"], e["tokens_seen"]) for e in self.done}
        has = bool(self.built.get(planned.phase.name))
        return has and (planned.phase.name, tokens_seen) not in entered

    def due_within(self, planned: PlannedPhase, before: int, after: int) -> bool:
        """Does a repeated one's turn lie in (before, after]?"""
        return any(
            every
            and (after - planned.start_tokens) // every > (before - planned.start_tokens) // every
            for every in self.every_tokens.get(planned.phase.name, {}).values()
        )

    def apply(
        self,
        model: nn.Module,
        optimizer: torch.optim.Optimizer | None,
        planned: PlannedPhase,
        tokens_seen: int,
    ) -> None:
        """Let those whose turn it is act, and record it."""
        name = planned.phase.name
        for key, transform in self.built.get(name, {}).items():
            every = self.every_tokens.get(name, {}).get(key, 0)
            since = tokens_seen - planned.start_tokens
            if since == 0 or (every and since // every > self._acted(name, key, planned, every)):
                transform(model, optimizer, tokens_seen)
                node = self.nodes.get(name, {}).get(key)
                entry = {"phase": name, "name": key, "tokens_seen": tokens_seen, "node": node}
                self.done.append(entry)

    def _acted(self, phase: str, name: str, planned: PlannedPhase, every: int) -> int:
        mine = [e for e in self.done if e["phase"] == phase and e["name"] == name]
        return (mine[-1]["tokens_seen"] - planned.start_tokens) // every if mine else -1

    def replay(self, model: nn.Module, done: list[dict[str, Any]]) -> None:
        """Do again what a checkpoint's run did, on a fresh model, before its weights are loaded.

        Raises:
            ConfigError: it names what this run does not trust.
        """
        for entry in done:
            transform = self.built.get(entry["phase"], {}).get(entry["name"])
            # The record is data of the checkpoint: building it goes through the same whitelist.
            (transform or build(entry["node"]))(model, None, entry["tokens_seen"])
        self.done = list(done)
