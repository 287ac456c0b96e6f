"""From origins to cleaned documents on disk: read and cleaned in portions, by all workers.

Every portion that is read is kept before the next step looks at it, so that a preparation that is
killed goes on behind the last one.
"""

from collections.abc import Callable, Iterator
from concurrent.futures import Executor
from functools import partial
from itertools import chain, count, islice
from pathlib import Path

from plm.data.documents import Document, Origin, Step, is_per_document, step_name
from plm.data.pool import ordered, portions
from plm.data.tally import Tallies, Tally
from plm.data.textstore import Portion, TextStore

_PORTION = 1_000_000

Progress = Callable[[str, int, int | None], None]


def clean(
    origins: dict[str, Origin],
    steps: dict[str, list[Step]],
    folder: Path,
    executor: Executor,
    ahead: int,
    progress: Progress,
) -> dict[str, TextStore]:
    """Read every source and run its steps; the result does not depend on the workers.

    The leading per-document steps run with the reading, in the workers; from the first step on
    that looks at several documents at once, all run here, in order.

    Args:
        origins: by source.
        steps: by source, settings bound.
        folder: for the text stores, `<source>.text`; those of an earlier try are gone on with.
        executor, ahead: of `pool`.
        progress: told (what, documents kept, None).
    """
    alone = {source: _leading(steps[source]) for source in origins}
    together = {source: steps[source][len(alone[source]) :] for source in origins}
    stores = {source: TextStore(folder / f"{source}.text") for source in origins}
    # With steps that look at several documents, what was read is kept beside what they leave.
    read = {
        source: TextStore(folder / f"{source}.read") if together[source] else stores[source]
        for source, store in stores.items()
        if not store.complete
    }
    tasks = chain.from_iterable(
        _tasks(source, origins[source], alone[source], store.portions)
        for source, store in read.items()
        if not store.complete
    )
    results = _BySource(ordered(executor, ahead, _read_and_clean, tasks))
    for source, taken in read.items():
        documents = _counted(_kept(taken, results.of(source)), f"reading {source}", progress)
        if together[source]:
            _run(documents, together[source], stores[source], taken)
        else:
            for _ in documents:
                pass
    return stores


def _run(
    documents: Iterator[Document], steps: list[Step], store: TextStore, taken: TextStore
) -> None:
    """The steps that look at several documents, from the first document on, into the store."""
    tallies: Tallies = {}
    for step in steps:
        documents = step(documents, tally=tallies.setdefault(step_name(step), Tally()))
    store.restart()
    store.fill(documents, lambda: _together(taken.tallies, tallies))
    taken.remove()


def _together(first: Tallies, second: Tallies) -> Tallies:
    """A step may stand before and behind one that looks at several documents."""
    found: Tallies = {}
    for tallies in (first, second):
        for step, tally in tallies.items():
            found.setdefault(step, Tally()).add(tally)
    return found


def _kept(store: TextStore, portions: Iterator[Portion]) -> Iterator[Document]:
    """What the store holds already, then what comes, each portion kept before it is passed on."""
    yield from store.documents()
    if store.complete:
        return
    for portion in portions:
        first = len(store.entries)
        store.take(portion)
        entries = store.entries[first:]
        for entry, text in zip(entries, portion.texts(), strict=True):
            yield Document(text, entry.name, entry.group)
    store.finish()


class _BySource:
    """Results, which come source by source, handed out by source."""

    def __init__(self, results: Iterator[tuple[str, Portion]]) -> None:
        self._results = results
        self._next: tuple[str, Portion] | None = None
        self._over: set[str] = set()
        self._asked: str | None = None

    def of(self, source: str) -> Iterator[Portion]:
        """The portions of one source; ends with the first of another.

        What is left of a source that was asked for before is passed over: its steps wanted no more.
        """
        if self._asked is not None:
            self._over.add(self._asked)
        self._asked = source
        while True:
            found = self._next or next(self._results, None)
            self._next = None
            if found is None:
                return
            if found[0] in self._over:
                continue
            if found[0] != source:
                self._next = found
                return
            yield found[1]


def _leading(steps: list[Step]) -> list[Step]:
    first = next((i for i in count() if i == len(steps) or not is_per_document(steps[i])), 0)
    return steps[:first]


def _tasks(source: str, origin: Origin, steps: list[Step], done: int) -> Iterator[tuple]:
    for portion in islice(portions(origin.items, origin.size, _PORTION), done, None):
        yield source, portion, origin.read, steps


def _read_and_clean(task: tuple) -> tuple[str, Portion]:
    source, items, read, steps = task
    tallies: Tallies = {"read": Tally()}
    documents: Iterator[Document] = chain.from_iterable(
        map(partial(read, tally=tallies["read"]), items)
    )
    for step in steps:
        documents = step(documents, tally=tallies.setdefault(step_name(step), Tally()))
    return source, Portion.of(documents, tallies)


def _counted(documents: Iterator[Document], what: str, progress: Progress) -> Iterator[Document]:
    for number, document in enumerate(documents, start=1):
        if number % 200 == 0:
            progress(what, number, None)
        yield document
