"""The memory finds what it has seen, and answers what lies nearest."""

import pytest

from plm.errors import ConfigError
from plm.evaluation.exercises import exercises
from plm.evaluation.generated import Item
from plm.evaluation.lookup import nearest, runs_of, similarity
from tests.evaluation.conftest import Scripted


def test_similarity():
    assert similarity(runs_of("Add 1 and 2."), runs_of("Add 1 and 2.")) == 1.0
    assert similarity(runs_of("abc"), runs_of("xyz")) == 0.0
    near = similarity(runs_of("Add 21 and 2."), runs_of("Add 21 and 3."))
    assert near > similarity(runs_of("Add 21 and 2."), runs_of("Sort 21 and 2."))
    # Of " ab " and " abc ": {" ab", "ab "} and {" ab", "abc", "bc "}: one of four.
    assert similarity(runs_of("ab"), runs_of("abc")) == 0.25
    assert similarity(runs_of(""), runs_of("")) == 0.0


def test_nearest_by_hand():
    def item(number: int, question: str, answer: str, group: str = "f") -> Item:
        return Item(str(number), question, "", answer, group, {"entry": {}})

    known = {"f": [("Add 11 and 12.", "23"), ("Add 55 and 66.", "121")], "g": [("x", "y")]}
    items = [
        item(0, "Add 11 and 13.", "24"),
        item(1, "Add 55 and 66!", "121"),
        item(2, "z", "y", "g"),
    ]
    found = nearest(items, lambda family: known[family], lambda a, w, *_: a == w)
    assert found["lookup/f"].value == 0.5 and found["lookup/g"].value == 1.0
    assert found["lookup"].value == pytest.approx(2 / 3) and found["lookup"].n == 3
    with pytest.raises(ConfigError, match="no trained problems of f"):
        nearest(items, lambda family: [], lambda *_: True)


def test_beside_the_models_figures_and_made_once(monkeypatch: pytest.MonkeyPatch):
    one = {"seed": 1, "problems": 300}
    task = exercises({"count_bits": {"max_n": 4095}, "gcd": {}}, n=30, trained=[one], lookup=True)
    subject = Scripted(lambda *_: ("", "stop"))
    first = task.result(subject, [task.run(subject)])
    assert first.figures["accuracy"].value == 0.0
    # Small counts and small divisors come often: remembering is right now and then.
    assert 0.0 < first.figures["lookup"].value < 0.8 and "lookup/gcd" in first.figures
    monkeypatch.setattr("plm.evaluation.exercises.nearest", lambda *_: {}[0])
    assert task.result(subject, [task.run(subject)]) == first
