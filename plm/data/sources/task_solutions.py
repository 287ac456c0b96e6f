"""Conversations made of a task: what its items ask, and their worked solutions.

What a model begins from that is to be rewarded for answers of a form that it has not seen, such as
`plm.process.masked`'s holes.
"""

from collections.abc import Iterator
from typing import Any

from plm.data.conversations import Conversation
from plm.data.documents import Document, Origin
from plm.data.tally import Tally
from plm.errors import ConfigError
from plm.evaluation.generated import Generated, Item


def task_solutions(task: Any) -> Origin:
    """Each item of a task as one conversation: its question, and its solution.

    Items without a solution are left out, and counted. What a task of `plm.process` cannot use of
    another one is no item, and is not.

    Args:
        task: whose items have solutions: `plm.evaluation.exercises.exercises`, gsm8k, or what
            `plm.process` makes of these. Its seeds are to be kept apart from those of evaluation.
    Raises:
        ConfigError: it is no such task.
    """
    if not isinstance(task, Generated):
        raise ConfigError(
            f"task_solutions: task={type(task).__name__} is none whose answers are written; take "
            "one like plm.evaluation.exercises.exercises or plm.process.masked.masked"
        )
    return Origin(_Items(task), _read, _size, {"conversations": True})


class _Items:
    """The task's items, made when they are first asked for."""

    def __init__(self, task: Generated) -> None:
        self.task = task

    def __iter__(self) -> Iterator[Item]:
        return iter(self.task.items)


def _read(item: Item, tally: Tally) -> Iterator[Document]:
    if not item.solution:
        tally.drop("no worked solution", item.name, item.question)
        return
    talk = [
        {"role": "user", "content": item.question},
        {"role": "assistant", "content": item.solution},
    ]
    # Its own group, by its text: equal questions can never be on both sides.
    yield Document(Conversation(talk).to_text(), item.name, item.question)


def _size(item: Item) -> int:
    return len(item.question) + len(item.solution)
