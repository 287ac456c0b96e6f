"""What generation gives: whole completions, or one event a token."""

from dataclasses import dataclass, field
from typing import Any

STOP, STOP_STRING, LENGTH, CANCELLED = "stop", "stop_string", "length", "cancelled"
"""Why a row ended: a stop id, a stop string, max_new_tokens, or because it was told to."""


@dataclass
class Completion:
    """One row, whole.

    Attributes:
        prompt: index of its prompt in the call.
        sample: index in its group.
        tokens: drawn ids, the stop id included where one ended it.
        logps: the model's own log-probability of each, at temperature 1 and without filters: what a
            trainer computes.
        sampled_logps: under the distribution that was drawn from; 0 where that was greedy.
        finish: STOP, STOP_STRING, LENGTH or CANCELLED.
        text: without special tokens and from a stop string on; "" without a tokenizer.
        held: the row's state (plm.rollout.held.Held), where `generate` was to keep it.
    """

    prompt: int
    sample: int
    tokens: list[int]
    logps: list[float]
    sampled_logps: list[float]
    finish: str
    text: str
    held: Any = field(default=None, compare=False, repr=False)


@dataclass
class Event:
    """One token of one row.

    Attributes:
        request: number that `Engine.add` gave.
        sample: index in its group.
        token: drawn id.
        logp: the model's own log-probability of it.
        text: what became certain with it: no half character, nothing that may be the start of a
            stop string; "" without a tokenizer.
        finish: why the row ended with it, or None.
    """

    request: int
    sample: int
    token: int
    logp: float
    text: str
    finish: str | None
