"""The engine's thread: who is told what, when it is full, and how it ends."""

import threading

import pytest

from plm.errors import ConfigError
from plm.rollout.sampling import Sampling
from plm.serving.worker import Full, Job, Stopped, Told, Worker
from tests.serving.common import CONTEXT, Scripted, engine, until


def job(told: list[Told], *prompts: list[int], group: int = 1, **settings) -> Job:
    prompts = prompts or ([5, 6],)
    sampling = [Sampling(**{"max_new_tokens": 9, **settings}) for _ in prompts]
    return Job(prompts, sampling, group, told.append)


def test_jobs_of_several_prompts_get_what_the_engine_says():
    worker, told = Worker(engine(rows=3), waiting=9), []
    prompts = [[5, 6], [7, 8, 9], [10]]
    settings = {"temperature": 1.0, "seed": 4}
    one = job(told, *prompts, group=2, **settings)
    worker.submit(one)
    worker.start()
    until(lambda: one.left == 0)
    worker.stop()
    assert told[0] == []
    found: dict[tuple[int, int], list[int]] = {}
    for index, event in (item for each in told[1:] for item in each):
        found.setdefault((index, event.sample), []).append(event.token)
    how = Sampling(max_new_tokens=9, temperature=1.0)
    expected = engine().generate(prompts, how, group=2, seeds=[4] * 3)
    assert found == {(one.prompt, one.sample): one.tokens for one in expected}


def test_cancelled_jobs_are_told_nothing_more():
    held = threading.Event()
    said = Scripted("Some text of a town", rows=4, held=held)
    worker, told, others = Worker(said, waiting=0), [], []
    first, second = job(told), job(others)
    worker.start()
    worker.submit(first)
    worker.submit(second)
    until(lambda: told == [[]] and others == [[]])
    worker.cancel(first)
    until(lambda: worker.rows == 1)
    held.set()
    until(lambda: len(others) == len(said.tokens) + 1)
    assert said.cancelled == [1] and told == [[]]
    # One that has ended is left alone.
    worker.cancel(second)
    worker.stop()
    assert said.cancelled == [1]


def test_no_more_rows_than_may():
    worker = Worker(Scripted("Some text", rows=2), waiting=3)
    worker.submit(job([], group=2))
    with pytest.raises(Full, match="2 answers are under way or wait, and 5 may"):
        worker.submit(job([], [1], [2], group=2))
    worker.submit(job([], [1], [2], [3]))
    assert worker.rows == 5
    worker.start()
    until(lambda: worker.rows == 0)
    worker.stop()


def test_a_job_that_the_engine_does_not_take_is_told_why():
    real = engine()
    worker, told = Worker(real, waiting=9), []
    worker.start()
    # The first of its prompts is taken back.
    worker.submit(job(told, [5], [5] * CONTEXT))
    until(lambda: bool(told))
    [error] = told
    assert isinstance(error, ConfigError) and f"context of {CONTEXT}" in str(error)
    until(lambda: worker.rows == 0)
    worker.stop()
    assert real.idle


def test_a_failing_engine_ends_all_and_the_thread_goes_on(caplog):
    worker, told, others = Worker(Scripted("Some text", broken=2), waiting=9), [], []
    worker.start()
    worker.submit(job(told))
    until(lambda: bool(told) and isinstance(told[-1], RuntimeError))
    assert "the engine failed" in caplog.text and worker.rows == 0
    again = job(others)
    worker.submit(again)
    until(lambda: again.left == 0)
    worker.stop()
    assert others[-1][-1][1].finish == "stop"


def test_the_end():
    worker, told = Worker(Scripted("Some text", held=threading.Event()), waiting=9), []
    worker.start()
    worker.submit(job(told))
    until(lambda: told == [[]])
    worker.stop()
    assert isinstance(told[-1], Stopped)
    with pytest.raises(Stopped):
        worker.submit(job([]))
