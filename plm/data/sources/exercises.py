"""Mathematics: reasoning-gym's tasks, written out as problems with worked solutions.

Source: open-thought/reasoning-gym, whose generators and scorers are used; the steps are ours.
"""

from collections.abc import Callable, Iterator, Mapping
from functools import partial
from typing import Any, NamedTuple

from plm.data.documents import Document, Origin
from plm.data.sources.solutions import SOLVERS
from plm.data.tally import Tally
from plm.errors import ConfigError

# A problem costs less than its text, importing reasoning-gym more: few portions are best.
_COST = 50


class _Batch(NamedTuple):
    family: str
    settings: dict[str, Any]
    size: int


def exercises(families: dict[str, dict[str, Any] | None], *, seed: int, problems: int) -> Origin:
    """Worked problems, the same ones for the same seed and version of reasoning-gym.

    Args:
        families: name of each family and settings of its generator; `problems` among them
            overrides the number.
        seed: of the generators.
        problems: how many of each family, before equal ones are dropped.
    Raises:
        ConfigError: a family that has no worked solution.
    """
    for family in families:
        if family not in SOLVERS:
            raise ConfigError(
                f"exercises: no worked solution for {family!r}; there are: {', '.join(SOLVERS)}"
            )
    items = []
    for family in sorted(families):
        settings = dict(families[family] or {})
        size = settings.pop("problems", problems)
        items.append(_Batch(family, settings, size))
    return Origin(items, partial(_read, seed=seed), _size, {"families": sorted(families)})


def _size(item: _Batch) -> int:
    return item.size * _COST


def _read(item: _Batch, tally: Tally, *, seed: int) -> Iterator[Document]:
    for number, task, worked in solve(item.family, item.settings, seed, item.size):
        if worked is None:
            tally.drop("no exact solution", f"{item.family}/{number}", task["question"])
        elif not agrees(worked.answer, task["answer"]):
            name = f"{item.family}/{number}"
            tally.drop("solution differs from the task's answer", name, task["question"])
        else:
            steps = "\n".join(worked.steps)
            text = f"Question: {worked.question}\nSolution:\n{steps}\nAnswer: {worked.answer}\n"
            # Its own group, by its text: equal problems can never be on both sides.
            yield Document(text, f"{item.family}/{number}", f"{item.family}: {worked.question}")


def solve(
    family: str,
    settings: dict[str, Any],
    seed: int,
    size: int,
    solvers: Mapping[str, Callable[[dict[str, Any]], Any]] = SOLVERS,
) -> Iterator[tuple[int, dict[str, Any], Any]]:
    """Number, task and Worked (or None) of the first `size` tasks of a family.

    Task i of a seed is task 0 of seed + i: seeds that are to share no task lie `size` apart.
    """
    import reasoning_gym

    dataset = reasoning_gym.create_dataset(family, seed=seed, size=size, **settings)
    for number in range(size):
        task = dataset[number]
        data = {**task["metadata"], "question": task["question"]}
        yield number, task, solvers[family](data)


def agrees(ours: str, theirs: str) -> bool:
    """Whether two answers are the same, up to how a complex number's parts are written."""
    return ours == theirs or ours == theirs.replace(".0", "")
