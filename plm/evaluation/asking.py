"""A task's items, asked in an environment."""

from typing import Any

from plm.environment.common import Asked, Reply
from plm.evaluation.common import seed_of


def answered_in(
    environment: Any, task: Any, subject: Any, items: list[Any]
) -> tuple[list[list[tuple[str, bool]]], list[int]]:
    """As `plm.evaluation.generated.Generated.answered`, by an environment.

    Args:
        environment: `(subject, asked) -> replies`, with its settings.
        task: a Generated: how long an answer may be, how many there are, the seed, where it ends.
        subject: a plm.evaluation.subject.Subject.
        items: which are asked.
    """
    prompts = [subject.prompt(item.question, item.text) for item in items]
    rooms = [min(task.draw.max_new_tokens, subject.max_len - len(prompt)) for prompt in prompts]
    asked = [
        Asked(prompt, room, seed_of(task.draw.seed, item.name), task.draw.samples, item)
        for item, prompt, room in zip(items, prompts, rooms, strict=True)
        if room > 0
    ]
    replies = iter(environment(subject, asked))
    stop = task.stop if subject.chat is None else ()
    found = [
        [_ended(next(replies), stop) for _ in range(task.draw.samples)] if room > 0 else []
        for room in rooms
    ]
    return found, rooms


def _ended(reply: Reply, stop: tuple[str, ...]) -> tuple[str, bool]:
    """Text and whether it was cut; from a stop string on, none of it is the answer."""
    places = [place for one in stop if (place := reply.text.find(one)) >= 0]
    return (reply.text[: min(places)], False) if places else (reply.text, reply.cut)
