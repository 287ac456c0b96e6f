"""What the ways of sampling candidates share: their settings, and answering many prompts."""

from collections.abc import Sequence
from dataclasses import replace
from typing import Any, NamedTuple

from plm.errors import ConfigError
from plm.rollout.sampling import Sampling


class Said(NamedTuple):
    """One completion: its text, drawn tokens, and whether it was too long."""

    text: str
    tokens: int
    cut: bool


def check(*, answers: int, max_new_tokens: int, temperature: float, turns: int = 0) -> None:
    """Refuse numbers that give nothing.

    Raises:
        ConfigError: a number that is not whole or too small, or several answers to a question that
            could only be the same one.
    """
    for name, value, least in (
        ("answers", answers, 1),
        ("turns", turns, 0),
        ("max_new_tokens", max_new_tokens, 1),
    ):
        if isinstance(value, bool) or not isinstance(value, int) or value < least:
            raise ConfigError(f"candidates.{name}={value} must be a whole number from {least} on")
    if answers > 1 and temperature == 0:
        raise ConfigError(
            f"candidates.answers={answers} at candidates.temperature=0 would be one answer so many "
            "times; set temperature=1.0, say, or answers=1"
        )


def asked(
    subject: Any,
    prompts: Sequence[Sequence[int]],
    seeds: Sequence[int],
    sampling: Sampling,
    group: int = 1,
) -> list[list[Said]]:
    """Completions of each prompt; none for one that leaves no room in the context.

    Args:
        subject: a plm.evaluation.subject.Subject.
        prompts: ids.
        seeds: one a prompt: what is drawn depends on nothing else.
        sampling: max_new_tokens is less where prompt and answer would pass the context.
        group: completions a prompt.
    """
    rooms = [min(sampling.max_new_tokens, subject.max_len - len(prompt)) for prompt in prompts]
    found: list[list[Said]] = [[] for _ in prompts]
    for room in sorted({room for room in rooms if room > 0}, reverse=True):
        chosen = [index for index, own in enumerate(rooms) if own == room]
        with subject.device_context():
            done = subject.engine.generate(
                [prompts[index] for index in chosen],
                replace(sampling, max_new_tokens=room),
                group=group,
                seeds=[seeds[index] for index in chosen],
            )
        for one in done:
            said = Said(one.text, len(one.tokens), one.finish == "length")
            found[chosen[one.prompt]].append(said)
    return found
