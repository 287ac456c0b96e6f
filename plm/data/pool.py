"""Work shared between processes, with results in the order of the work."""

import multiprocessing
import os
import signal
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Executor, Future, ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from contextlib import contextmanager
from threading import Thread
from typing import Any

from plm.errors import Unfinished

_AHEAD = 16
"""Portions a worker may be ahead of the one whose result is wanted next: bounds the memory."""


class _Here(Executor):
    """Runs the work at once, in this process."""

    def submit(self, function: Callable, /, *args: Any, **kwargs: Any) -> Future:
        future: Future = Future()
        future.set_result(function(*args, **kwargs))
        return future


def _start_worker() -> None:
    # One thread a worker: the processes are the parallelism.
    os.environ["TOKENIZERS_PARALLELISM"] = "false"
    # Ctrl-C reaches the whole group; the parent alone decides what to do about it.
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    # Workers of a killed parent would wait for work for ever.
    Thread(target=_end_with_parent, daemon=True).start()


def _end_with_parent() -> None:
    parent = multiprocessing.parent_process()
    if parent is not None:
        parent.join()
        os._exit(1)


def cores() -> int:
    """Cores this process may use."""
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


@contextmanager
def pool(workers: int) -> Iterator[tuple[Executor, int]]:
    """An executor, and how many portions to keep in flight; one worker means this process.

    Raises:
        Unfinished: a worker was killed, or could not start.
    """
    if workers <= 1:
        yield _Here(), 1
        return
    # spawn: a fork of a process with threads (torch, tokenizers) can hang.
    executor = ProcessPoolExecutor(
        workers, multiprocessing.get_context("spawn"), initializer=_start_worker
    )
    try:
        yield executor, workers * _AHEAD
    except BrokenProcessPool as error:
        raise Unfinished(
            "a process that prepares data ended suddenly: for want of memory (try fewer workers), "
            "or because the calling script lacks `if __name__ == '__main__':`"
        ) from error
    finally:
        executor.shutdown(cancel_futures=True)


def ordered(
    executor: Executor, ahead: int, function: Callable, portions: Iterable[Any]
) -> Iterator[Any]:
    """`function(portion)` for each portion, in their order, at most `ahead` of them in flight."""
    waiting: deque[Future] = deque()
    for portion in portions:
        waiting.append(executor.submit(function, portion))
        if len(waiting) >= ahead:
            yield waiting.popleft().result()
    while waiting:
        yield waiting.popleft().result()


def portions(items: Iterable[Any], size: Callable[[Any], int], target: int) -> Iterator[list[Any]]:
    """Cut items into lists of about `target` in size; where they are cut depends on them alone."""
    portion: list[Any] = []
    total = 0
    for item in items:
        portion.append(item)
        total += size(item)
        if total >= target:
            yield portion
            portion, total = [], 0
    if portion:
        yield portion
