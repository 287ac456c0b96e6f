"""Which prompt comes when: a pure function of (phases, sources, seed, number of the draw).

Where the model's own answers decide how many prompts a step needs, no step says how many were drawn
before it: that is the cursor, which belongs to the checkpoint. Everything else follows from it.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np

from plm.data.order import Quotas, permute
from plm.errors import ConfigError
from plm.evaluation.common import seed_of
from plm.phases import Plan


@dataclass(frozen=True)
class Draw:
    """One prompt that is drawn.

    Attributes:
        number: of the draw, over the whole run, from 0.
        source: name.
        item: index into the source's items.
        epoch: times that the source was drawn whole before.
    """

    number: int
    source: str
    item: int
    epoch: int


class Cursor:
    """The endless line of prompts, and how far it was drawn; what Order is for text.

    Args:
        plan: the phases; their mixtures are shares of prompts.
        sizes: prompts of each source.
        seed: of the order.
        group: rollouts a prompt.
        cursors: prompts already drawn of each source, where the run begins.
    Raises:
        ConfigError: a mixture names a source that is not there, or changes within its phase.
    """

    def __init__(
        self,
        plan: Plan,
        sizes: Mapping[str, int],
        *,
        seed: int,
        group: int,
        cursors: Mapping[str, int] | None = None,
    ) -> None:
        self.plan, self.sizes, self.seed, self.group = plan, dict(sizes), seed, group
        self.names = plan.sources()
        for planned in plan.phases:
            phase = planned.phase
            for name in phase.mixture:
                if name not in sizes:
                    raise ConfigError(
                        f"phases.{phase.name}.mixture.{name} is not a source of prompts; there "
                        f"are: {', '.join(sizes)}"
                    )
            if phase.mixture_to:
                raise ConfigError(
                    f"phases.{phase.name}.mixture_to: prompts are drawn as the model's answers "
                    "ask for them, in one mixture a phase; use two phases"
                )
        self._quotas = {p.phase.name: Quotas([p.shares()]) for p in plan.phases}
        self.drawn = {name: int((cursors or {}).get(name, 0)) for name in self.names}
        self.number, self.phase, self.inside = 0, plan.phases[0].phase.name, 0

    def take(self, phase: str, number: int) -> list[Draw]:
        """The next prompts of a phase; the cursor goes on behind them."""
        if phase != self.phase:
            self.phase, self.inside = phase, 0
        quotas = self._quotas[phase]
        found = []
        for place in range(self.inside, self.inside + number):
            before, after = quotas.counts(np.array([place, place + 1], dtype=np.int64))
            source = quotas.names[int((after - before).argmax())]
            epoch, inside = divmod(self.drawn[source], self.sizes[source])
            key = seed_of(self.seed, f"{source}/{epoch}")
            item = permute(np.array([inside]), self.sizes[source], key)
            found.append(Draw(self.number, source, int(item[0]), epoch))
            self.drawn[source] += 1
            self.number += 1
        self.inside += number
        return found

    def state(self) -> dict[str, Any]:
        """What a checkpoint keeps."""
        return {
            "number": self.number,
            "phase": self.phase,
            "inside": self.inside,
            "drawn": dict(self.drawn),
        }

    def load(self, state: Mapping[str, Any]) -> None:
        """Go on from a checkpoint's state."""
        self.number, self.phase = int(state["number"]), str(state["phase"])
        self.inside = int(state["inside"])
        self.drawn = {name: int(state["drawn"].get(name, 0)) for name in self.names}

    def cursors(self, step: int) -> dict[str, int]:
        """Prompts drawn of each source so far, over all epochs; of the present step alone."""
        return dict(self.drawn)

    def told(self) -> dict[str, dict[str, float]]:
        """Of each source its share and the prompts that were drawn, at the end of a run."""
        total = sum(planned.tokens for planned in self.plan.phases)
        asked = dict.fromkeys(self.names, 0.0)
        for planned in self.plan.phases:
            for name, share in planned.shares().items():
                asked[name] += share * planned.tokens / total
        return {
            name: {
                "asked_share": asked[name],
                "prompts_drawn": self.drawn[name],
                "epochs": self.drawn[name] / self.sizes[name],
            }
            for name in self.names
        }

    def epochs(self) -> dict[str, float]:
        """How often each source was drawn so far."""
        return {name: self.drawn[name] / self.sizes[name] for name in self.names}
