"""Instruction data from reasoning-gym's tasks: a question, and its solution step by step.

Source: open-thought/reasoning-gym, whose generators and scorers are used; the steps are ours.
"""

from collections.abc import Iterator
from functools import partial
from random import Random
from typing import Any, NamedTuple

from plm.data.conversations import Conversation
from plm.data.documents import Document, Origin
from plm.data.sources.exercises import agrees, solve
from plm.data.sources.small_steps import SMALL_STEPS
from plm.data.tally import Tally
from plm.errors import ConfigError

_COST = 50
ANSWER = "Answer: "
"""What the last line of a solution begins with."""


class _Batch(NamedTuple):
    family: str
    settings: dict[str, Any]
    size: int


def dialogues(
    families: dict[str, dict[str, Any] | None],
    *,
    seed: int,
    problems: int,
    steps: bool | float = True,
    second_turn: float = 0.0,
    system: str = "",
    system_share: float = 0.0,
) -> Origin:
    """Conversations on tasks, the same ones for the same seed and version of reasoning-gym.

    Args:
        families: name of each family and settings of its generator; `problems` among them
            overrides the number.
        seed: of the generators. Task i of a seed is task 0 of seed + i: tasks for evaluation need
            a seed that lies further off than `problems`.
        problems: how many of each family, before equal ones are dropped.
        steps: False has the answers alone, as a model learns them that works things out inside; a
            number is the share of the problems that have steps.
        second_turn: share of the conversations that go on with a second task.
        system, system_share: a system prompt, and the share of the conversations that begin so.
    Raises:
        ConfigError: a family that has no worked solution, or a share out of its range.
    """
    shares = {"second_turn": second_turn, "system_share": system_share, "steps": float(steps)}
    for name, share in shares.items():
        if not 0 <= share <= 1:
            raise ConfigError(f"dialogues: {name}={share} is not a share, from 0 to 1")
    items = []
    for family in sorted(families):
        if family not in SMALL_STEPS:
            raise ConfigError(
                f"dialogues: no worked solution for {family!r}; there are: {', '.join(SMALL_STEPS)}"
            )
        settings = dict(families[family] or {})
        items.append(_Batch(family, settings, settings.pop("problems", problems)))
    read = partial(
        _read,
        seed=seed,
        steps=float(steps),
        second_turn=second_turn,
        system=system,
        system_share=system_share,
    )
    facts = {"families": sorted(families), "seed": seed, "conversations": True}
    return Origin(items, read, lambda item: item.size * _COST, facts)


def exchange(question: str, steps: list[str], answer: str) -> list[dict[str, str]]:
    """The two messages of a task."""
    solved = "\n".join([*steps, f"{ANSWER}{answer}"])
    return [{"role": "user", "content": question}, {"role": "assistant", "content": solved}]


def _read(
    item: _Batch,
    tally: Tally,
    *,
    seed: int,
    steps: float,
    second_turn: float,
    system: str,
    system_share: float,
) -> Iterator[Document]:
    waiting: list[dict[str, str]] = []
    tasks = solve(item.family, item.settings, seed, item.size, SMALL_STEPS)
    for number, task, worked in tasks:
        name = f"{item.family}/{number}"
        if worked is None:
            tally.drop("no exact solution", name, task["question"])
            continue
        if not agrees(worked.answer, task["answer"]):
            tally.drop("solution differs from the task's answer", name, task["question"])
            continue
        draw = Random(f"{seed}/{name}")
        # A draw of its own: the others do not depend on the share.
        shown = worked.steps if Random(f"{seed}/{name}/steps").random() < steps else []
        messages = waiting + exchange(worked.question, shown, worked.answer)
        if not waiting and draw.random() < second_turn:
            waiting = messages
            continue
        if draw.random() < system_share:
            messages = [{"role": "system", "content": system}, *messages]
        waiting = []
        # Its own group, by its text: equal problems can never be on both sides.
        yield Document(Conversation(messages).to_text(), name, f"{item.family}: {worked.question}")
