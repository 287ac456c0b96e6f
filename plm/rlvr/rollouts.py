"""A batch of rollouts, as it is kept between optimizer steps and in checkpoints."""

import json
from collections.abc import Iterable
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from plm.checkpoint import write_atomic
from plm.errors import CheckpointError

FILE = "rollouts.json"


@dataclass
class Rollout:
    """One answer, and all that is known of it.

    Attributes:
        number: of the draw that its prompt came with.
        sample: index in its group.
        source, item: where the prompt comes from, and its item's index there.
        prompt: ids.
        tokens: ids behind the prompt, the one that ended it included.
        learn: one a token, whether the policy chose it (1) or a tool said it (0).
        sampled: log-probability of each under the distribution that it was drawn from, nats.
        text: without special tokens.
        cut: it ended because there was no more room.
        rewards: by kind, from 0 to 1.
        reward: their weighted sum, less what the divergence takes where it is in the reward.
        advantage: of the rollout; with a value model the mean of its tokens'.
        old: log-probability of each token by the trainer's arithmetic under the weights that drew
            it, nats; empty where the batch is used once.
        reference: likewise under the reference model; empty without a divergence.
        values: what a value model says before each token, in the unit of the rewards; like
            `advantages` and `returns`, what it should have said, empty without one. What a tool
            said has 0.
        told: what else is logged of it, numbers by name.
    """

    number: int
    sample: int
    source: str
    item: int
    prompt: list[int]
    tokens: list[int]
    learn: list[int]
    sampled: list[float]
    text: str
    cut: bool
    rewards: dict[str, float] = field(default_factory=dict)
    reward: float = 0.0
    advantage: float = 0.0
    old: list[float] = field(default_factory=list)
    reference: list[float] = field(default_factory=list)
    values: list[float] = field(default_factory=list)
    advantages: list[float] = field(default_factory=list)
    returns: list[float] = field(default_factory=list)
    told: dict[str, float] = field(default_factory=dict)

    @property
    def length(self) -> int:
        """Prompt and answer, tokens."""
        return len(self.prompt) + len(self.tokens)

    @property
    def chosen(self) -> int:
        """Tokens that the policy chose."""
        return sum(self.learn)

    def spread(self, values: Iterable[float]) -> list[float]:
        """Those of the tokens that the policy chose, one a token: what a tool said has 0."""
        found = iter(values)
        return [next(found) if mine else 0.0 for mine in self.learn]


@dataclass
class Drawn:
    """The rollouts that some optimizer steps learn from, the same on every process.

    Attributes:
        rollouts: group by group.
        group: rollouts a group.
        told: figures of the sampling by name: sums and counts.
    """

    rollouts: list[Rollout]
    group: int
    told: dict[str, tuple[float, float]] = field(default_factory=dict)

    def write(self, folder: Path) -> None:
        """Keep them with a checkpoint."""
        plain = {"group": self.group, "rollouts": [asdict(one) for one in self.rollouts]}
        write_atomic(folder / FILE, json.dumps(plain))

    @classmethod
    def read(cls, folder: Path) -> "Drawn":
        """From a folder that `write` wrote to.

        Raises:
            CheckpointError: it has none, or they are damaged.
        """
        try:
            plain: dict[str, Any] = json.loads((folder / FILE).read_text(encoding="utf-8"))
            return cls([Rollout(**one) for one in plain["rollouts"]], plain["group"])
        except FileNotFoundError as error:
            raise CheckpointError(f"{folder / FILE} is missing: it is of another stage") from error
        except (ValueError, TypeError, KeyError) as error:
            raise CheckpointError(f"{folder / FILE} is damaged ({error})") from error
