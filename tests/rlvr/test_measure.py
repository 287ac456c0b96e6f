"""Mean rewards of held-out prompts, by however many processes."""

from collections.abc import Sequence
from types import SimpleNamespace
from typing import Any

import pytest
import torch

from plm.environment.common import Asked, Reply
from plm.evaluation.generated import Item
from plm.rlvr.measure import measure
from plm.rlvr.prompts import Source
from tests.rlvr.made import right, short, source_of


class _Task:
    """Of item i the answers "a" and, in a cut one, i letters "b"; the rewards' grade is its own."""

    def __init__(self, number: int) -> None:
        self.items = [Item(f"h{i}", f"question {i}", "", "a", more={"n": i}) for i in range(number)]
        self.grade = lambda texts, items: [text == "a" for text in texts]
        self.asked: list[str] = []

    def answered(self, subject: Any, items: Sequence[Item]) -> tuple[list[list[Any]], list[int]]:
        self.asked += [item.name for item in items]
        return [[("a", False), ("b" * item.more["n"], True)] for item in items], []


def _setup(rank: int = 0, world: int = 1) -> Any:
    subject = SimpleNamespace(encode=lambda texts: [list(text) for text in texts], chat=None)
    return SimpleNamespace(subject=lambda: subject, environment=None, rank=rank, world_size=world)


def _source(number: int, **more: Any) -> Source:
    return source_of("sums", 3, held_out=_Task(number), **more)


def _measured(source: Source, windows: int = 100, rank: int = 0, world: int = 1) -> Any:
    found = measure(
        _setup(rank, world), {"sums": source}, device=torch.device("cpu"), windows=windows
    )
    return found.get("sums")


def test_the_mean_over_all_answers() -> None:
    # 1, 2 and 3 letters of the cut ones, and one of each other; every second answer is right.
    source = source_of("sums", 3, held_out=_Task(4))
    source.held_out.items = source.held_out.items[1:]
    assert _measured(source) == {"loss": 0.5, "reward": 0.5, "tokens": 1.5, "cut": 0.5}


def test_kinds_are_weighed_against_each_other() -> None:
    rewards, weights = {"right": right, "short": short}, {"right": 3.0, "short": 1.0}
    source = _source(3, rewards=rewards, weights=weights)
    source.held_out.items = source.held_out.items[1:]
    # Right: 1, 0, 1, 0; one over the tokens: 1, 1, 1, 1/2.
    found = _measured(source)
    assert found["reward"] == pytest.approx(0.75 * 0.5 + 0.25 * 3.5 / 4)
    assert found["loss"] == pytest.approx(1 - found["reward"])
    assert (found["reward/right"], found["reward/short"]) == (0.5, 3.5 / 4)


def test_sources_without_held_out_prompts_are_left_out() -> None:
    assert _measured(source_of("sums", 3)) is None


@pytest.mark.parametrize(
    ("windows", "asked"), [(1, [0]), (3, [0, 3, 6]), (10, list(range(10))), (99, list(range(10)))]
)
def test_so_many_prompts_at_most_from_all_over_the_task(windows: int, asked: list[int]) -> None:
    source = _source(10)
    _measured(source, windows)
    assert source.held_out.asked == [f"h{i}" for i in asked]


@pytest.mark.parametrize("world", [2, 3, 5])
def test_processes_together_measure_what_one_measures(
    monkeypatch: pytest.MonkeyPatch, world: int
) -> None:
    one, shared, sums = _source(4), _source(4), torch.zeros(4, dtype=torch.float64)

    def reduced(mine: torch.Tensor) -> None:
        sums.add_(mine)
        mine.copy_(sums)

    monkeypatch.setattr(torch.distributed, "all_reduce", reduced)
    found = [_measured(shared, rank=rank, world=world) for rank in range(world)]
    assert found[-1] == _measured(one)
    assert sorted(shared.held_out.asked) == one.held_out.asked


def test_answers_with_turns_are_drawn_as_the_run_draws_them() -> None:
    rooms = []

    def environment(subject: Any, asked: Sequence[Asked]) -> list[Reply]:
        rooms.extend(one.room for one in asked)
        return [Reply([1], [1], [0.0], "a", False) for _ in asked]

    setup, source = _setup(), _source(5)
    source.held_out.draw = SimpleNamespace(max_new_tokens=10, seed=0, samples=1)
    setup.environment, subject = environment, setup.subject()
    source.held_out.stop = ()
    subject.prompt = lambda question, text: [1, 2]
    for context, room in ((100, 10), (6, 4)):
        subject.max_len = context
        found = measure(setup, {"sums": source}, device=torch.device("cpu"), windows=5)["sums"]
        assert found["reward"] == 1 and rooms == [room] * 5
        rooms.clear()
    # Without room nothing is asked.
    subject.max_len = 2
    found = measure(setup, {"sums": source}, device=torch.device("cpu"), windows=5)["sums"]
    assert found["reward"] == 0 and not rooms
