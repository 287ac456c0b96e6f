"""When a run evaluates, what it writes, and what it refuses; whole runs are in tests/e2e."""

import math
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch

from plm.callbacks.evaluation import Evaluation, latest, row
from plm.errors import ConfigError, DataError
from plm.evaluation import stored
from plm.evaluation.common import Result
from plm.evaluation.statistics import Figure


class Task:
    def result(self): ...


def result(value: float) -> Result:
    figure = Figure(value, 0.1, 0.2, 0.3, 5, "wilson")
    return Result({"accuracy": figure, "accuracy/gcd": figure}, [], {}, "", "text")


def callback(**settings) -> Evaluation:
    return Evaluation(Path("run"), tasks={"t": Task()}, **settings)


def due(one: Evaluation, before: int, after: int, step: int = 1, total: int = 9) -> bool:
    stage = SimpleNamespace(tokens_seen=after, step=step, plan=SimpleNamespace(total_steps=total))
    return one._due(stage, SimpleNamespace(tokens_seen=before))


def test_due_where_a_multiple_is_passed_and_at_the_end():
    one = callback(every_tokens=100)
    assert [due(one, a, a + 40) for a in (0, 40, 80, 120, 160)] == [False, False, True, False, True]
    assert due(one, 0, 40, step=9) and not due(callback(every_tokens=100, at_end=False), 0, 40, 9)
    assert not due(callback(), 80, 120) and due(callback(), 80, 120, step=9)


def test_nothing_to_do_is_refused():
    for settings in ({"at_end": False}, {"every_tokens": -1}):
        with pytest.raises(ConfigError, match="nothing would be evaluated"):
            callback(**settings)
    with pytest.raises(ConfigError, match="0 tasks"):
        Evaluation(Path("run"), tasks={})
    with pytest.raises(ConfigError, match=r"tasks\.all is no single task"):
        Evaluation(Path("run"), tasks={"all": {"tasks": ["a"]}})


def test_sharded_weights_are_refused():
    stage = SimpleNamespace(placement=SimpleNamespace(whole_weights=False))
    with pytest.raises(ConfigError, match="needs all weights in one process"):
        callback().on_train_start(None, stage)


def test_what_stops_a_task_is_said_with_its_key(monkeypatch):
    class Missing(Task):
        def check(self, subject):
            raise DataError("x.jsonl cannot be read")

    one = Evaluation(Path("run"), tasks={"gsm8k": Missing()})
    monkeypatch.setattr(one, "_subject", lambda *_: None)
    place = SimpleNamespace(whole_weights=True)
    stage = SimpleNamespace(placement=place, model=torch.nn.Identity())
    with pytest.raises(
        DataError, match=r"^callbacks\.evaluation\.tasks\.gsm8k: x\.jsonl cannot be read"
    ):
        one.on_train_start(None, stage)


def test_row_and_latest(tmp_path: Path):
    assert row({"t": result(0.5), "u": result(math.nan)}) == {
        "eval/t/accuracy": 0.5,
        "eval/t/accuracy/gcd": 0.5,
    }
    one = Evaluation(tmp_path, tasks={"t": Task()})
    assert latest([object(), one]) == {}
    for name, value in (("tokens-1", 0.5), ("tokens-2", 0.75)):
        about = {"tokens_seen": int(name[-1]), "time": 1.0}
        stored.write(tmp_path / f"evaluations/{name}.json", about, {"t": result(value)})
    assert latest([object(), one])["t"]["accuracy"]["value"] == 0.75
