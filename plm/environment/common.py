"""How a prompt becomes a rollout: what an environment is asked, and what it gives back.

An environment is `(subject, asked, **settings) -> list[Reply]`, asked by asked, a group's samples
one after the other. What is drawn for one asked depends on its seed alone.
"""

from dataclasses import dataclass, field
from typing import Any


@dataclass(frozen=True)
class Asked:
    """One prompt that a group of rollouts begins with.

    Attributes:
        prompt: ids.
        room: tokens behind it at most.
        seed: of the draws.
        group: rollouts.
        item: of the task that it comes from.
    """

    prompt: list[int]
    room: int
    seed: int
    group: int
    item: Any = None


@dataclass
class Reply:
    """What stands behind the prompt.

    Attributes:
        tokens: ids.
        learn: one a token, 1 where the policy chose it.
        sampled: log-probability under the distribution that it was drawn from, nats; 0 where it was
            not drawn.
        text: without special tokens; of several turns all of them.
        cut: it ended because there was no more room.
        told: what is logged of it, numbers by name.
    """

    tokens: list[int]
    learn: list[int]
    sampled: list[float]
    text: str
    cut: bool
    told: dict[str, float] = field(default_factory=dict)
