"""The one thread that drives the engine; all others put requests in its way and are told."""

import logging
import queue
import threading
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

from plm.errors import PlmError
from plm.rollout.completion import Event
from plm.rollout.engine import Engine
from plm.rollout.sampling import Sampling

_log = logging.getLogger(__name__)

Told = list[tuple[int, Event]] | BaseException
"""Tokens, each with the index of its prompt; or why the job ended before its rows did."""


class Full(PlmError):
    """As many rows are under way or wait as may."""


class Stopped(PlmError):
    """The worker has been stopped."""


@dataclass(eq=False)
class Job:
    """Prompts that came together.

    Attributes:
        prompts: ids.
        sampling: of all of them, one each.
        group: rows a prompt.
        tell: called from the worker's thread: with [] once the engine has taken the job, with
            tokens after each step, with an exception as the last thing. It must not block.
        left: rows that have not ended.
        numbers: of the engine's requests.
    """

    prompts: Sequence[Sequence[int]]
    sampling: Sequence[Sampling]
    group: int
    tell: Callable[[Told], None]
    left: int = 0
    numbers: list[int] = field(default_factory=list)

    def __post_init__(self) -> None:
        self.left = len(self.prompts) * self.group


class Worker:
    """Continuous batching for callers in any thread.

    Args:
        engine: nobody else drives it from now on.
        waiting: rows that may wait beside those that the engine grows at once.
    """

    def __init__(self, engine: Engine, *, waiting: int) -> None:
        self.engine, self.most = engine, engine.rows + waiting
        self._commands: queue.SimpleQueue[Callable[[], None]] = queue.SimpleQueue()
        self._jobs: dict[int, tuple[Job, int]] = {}
        self._open: set[Job] = set()
        self._lock = threading.Lock()
        self._stopping = False
        self._thread = threading.Thread(target=self._run, name="engine", daemon=True)

    @property
    def rows(self) -> int:
        """Rows that are under way or wait."""
        with self._lock:
            return sum(job.left for job in self._open)

    def start(self) -> None:
        """Begin; once."""
        self._thread.start()

    def stop(self) -> None:
        """End every job, and the thread after its step."""
        with self._lock:
            self._stopping = True
        self._commands.put(lambda: None)
        self._thread.join()

    def submit(self, job: Job) -> None:
        """Queue a job.

        Raises:
            Full: there is no room for its rows.
            Stopped: nothing is taken any more.
        """
        with self._lock:
            if self._stopping:
                raise Stopped("the server is stopping")
            taken = sum(other.left for other in self._open)
            if taken + job.left > self.most:
                raise Full(
                    f"{taken} answers are under way or wait, and {self.most} may: there is no "
                    f"room for {job.left} more; try again later"
                )
            self._open.add(job)
        self._commands.put(lambda: self._add(job))

    def cancel(self, job: Job) -> None:
        """End a job wherever it stands, without a word; one that has ended is left alone."""
        self._commands.put(lambda: self._end(job))

    def _run(self) -> None:
        while not self._stopping:
            try:
                self._obey()
                self._hand_out(self.engine.advance())
            except Exception as error:
                _log.exception("the engine failed; every answer under way ends")
                self.engine.clear()
                self._fail(error)
        self._fail(Stopped("the server is stopping"))

    def _obey(self) -> None:
        """Do what was asked for; wait for it where there is nothing else to do."""
        if self.engine.idle:
            self._commands.get()()
        while True:
            try:
                command = self._commands.get_nowait()
            except queue.Empty:
                return
            command()

    def _add(self, job: Job) -> None:
        if job not in self._open:
            return
        try:
            for index, (prompt, how) in enumerate(zip(job.prompts, job.sampling, strict=True)):
                number = self.engine.add(prompt, how, group=job.group)
                job.numbers.append(number)
                self._jobs[number] = job, index
        except Exception as error:
            self._end(job)
            job.tell(error)
            return
        job.tell([])

    def _hand_out(self, events: list[Event]) -> None:
        told: dict[Job, list[tuple[int, Event]]] = {}
        for event in events:
            if event.request in self._jobs:
                job, index = self._jobs[event.request]
                told.setdefault(job, []).append((index, event))
        for job, found in told.items():
            ended = sum(event.finish is not None for _, event in found)
            with self._lock:
                job.left -= ended
            if not job.left:
                self._end(job)
            job.tell(found)

    def _end(self, job: Job) -> None:
        with self._lock:
            self._open.discard(job)
        for number in job.numbers:
            if self._jobs.pop(number, None) and job.left:
                self.engine.cancel(number)

    def _fail(self, error: Exception) -> None:
        with self._lock:
            jobs = list(self._open)
        for job in jobs:
            self._end(job)
            job.tell(error)
