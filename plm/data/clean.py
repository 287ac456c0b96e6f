"""From origins to cleaned documents on disk: read and cleaned in portions, by all workers."""

from collections.abc import Callable, Iterator
from concurrent.futures import Executor
from functools import partial
from itertools import chain, count
from pathlib import Path
from typing import Any

from plm.data.documents import (
    Document,
    Origin,
    Step,
    TextStore,
    is_per_document,
    step_name,
)
from plm.data.pool import ordered, portions
from plm.data.tally import Tallies, Tally

_PORTION = 1_000_000


def clean(
    origins: dict[str, Origin],
    steps: dict[str, list[Step]],
    folder: Path,
    executor: Executor,
    ahead: int,
    progress: Callable[[str, int, int | None], None],
) -> tuple[dict[str, TextStore], dict[str, Tallies]]:
    """Read every source and run its steps; the result does not depend on the workers.

    The leading per-document steps run with the reading, in the workers; from the first step on
    that looks at several documents at once, all run here, in order.

    Args:
        origins: by source.
        steps: by source, settings bound.
        folder: for the text stores, `<source>.text`.
        executor, ahead: of `pool`.
        progress: told (what, documents kept, None).
    """
    tasks: Iterator[tuple[str, list[Any], Callable, list[Step]]] = chain.from_iterable(
        _tasks(source, origin, _leading(steps[source])) for source, origin in origins.items()
    )
    results = ordered(executor, ahead, _read_and_clean, tasks)
    stores: dict[str, TextStore] = {}
    tallies: dict[str, Tallies] = {source: {} for source in origins}
    waiting: list[tuple[str, list[Document], Tallies]] = []

    def documents_of(source: str) -> Iterator[Document]:
        # Results come source by source, so that the first of the next one ends this one.
        for result in chain(waiting, results):
            if result[0] != source:
                waiting[:] = [result]
                return
            waiting.clear()
            for step, tally in result[2].items():
                tallies[source].setdefault(step, Tally()).add(tally)
            yield from result[1]

    for source in origins:
        documents: Iterator[Document] = documents_of(source)
        for step in steps[source][len(_leading(steps[source])) :]:
            tally = tallies[source].setdefault(step_name(step), Tally())
            documents = step(documents, tally=tally)
        store = TextStore(folder / f"{source}.text")
        store.fill(_counted(documents, f"reading {source}", progress))
        stores[source] = store
    return stores, tallies


def _leading(steps: list[Step]) -> list[Step]:
    first = next((i for i in count() if i == len(steps) or not is_per_document(steps[i])), 0)
    return steps[:first]


def _tasks(source: str, origin: Origin, steps: list[Step]) -> Iterator[tuple]:
    for portion in portions(origin.items, origin.size, _PORTION):
        yield source, portion, origin.read, steps


def _read_and_clean(task: tuple) -> tuple[str, list[Document], Tallies]:
    source, items, read, steps = task
    tallies: Tallies = {"read": Tally()}
    documents: Iterator[Document] = chain.from_iterable(
        map(partial(read, tally=tallies["read"]), items)
    )
    for step in steps:
        documents = step(documents, tally=tallies.setdefault(step_name(step), Tally()))
    return source, list(documents), tallies


def _counted(
    documents: Iterator[Document], what: str, progress: Callable[[str, int, int | None], None]
) -> Iterator[Document]:
    for number, document in enumerate(documents, start=1):
        if number % 200 == 0:
            progress(what, number, None)
        yield document
