"""One answer to each prompt, in one turn."""

from collections.abc import Sequence
from typing import Any

from plm.environment.common import Asked, Reply
from plm.rollout.completion import LENGTH
from plm.rollout.sampling import Sampling


def single(
    subject: Any, asked: Sequence[Asked], *, temperature: float = 1.0, top_p: float = 1.0
) -> list[Reply]:
    """Draw until the model ends its turn or the room ends.

    Args:
        subject: a plm.evaluation.subject.Subject.
        asked: prompts.
        temperature, top_p: of the draws.
    """
    found: list[list[Reply]] = [[] for _ in asked]
    # Prompts of one room go together; the longest first, since places are allocated once.
    for room, group in sorted({(one.room, one.group) for one in asked}, reverse=True):
        chosen = [i for i, one in enumerate(asked) if (one.room, one.group) == (room, group)]
        done = subject.engine.generate(
            [asked[i].prompt for i in chosen],
            Sampling(max_new_tokens=room, temperature=temperature, top_p=top_p),
            group=group,
            seeds=[asked[i].seed for i in chosen],
        )
        for one in done:
            found[chosen[one.prompt]].append(
                Reply(
                    tokens=one.tokens,
                    learn=[1] * len(one.tokens),
                    sampled=one.sampled_logps,
                    text=one.text,
                    cut=one.finish == LENGTH,
                )
            )
    return [reply for replies in found for reply in replies]
