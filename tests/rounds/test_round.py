"""A round's prompts, samples and pairs, with answers that no model draws."""

import json
import math
from collections import Counter
from dataclasses import dataclass, field
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

from plm.errors import CheckpointError, ConfigError, DataError
from plm.evaluation.generated import Item
from plm.pairing.best_worst import best_worst
from plm.rounds import round as rounds
from plm.rounds.common import Answer
from plm.rounds.parts import Parts
from plm.rounds.template import Template

ODD = "a\u2028b\u0085c\x0bd\x1e\re\ud7ff\U0001f600"
"""What ends a line for str.splitlines, and more than one byte a character."""


@dataclass
class Drawn:
    """Candidates that say what they were asked; the n-th call can fail."""

    calls: list[list[str]] = field(default_factory=list)
    fails_at: int | None = None

    def __call__(self, subject: Any, questions: Any, template: Any, seeds: Any) -> list:
        if len(self.calls) == self.fails_at:
            raise KeyboardInterrupt
        self.calls.append(list(questions))
        return [
            [Answer(f"{ODD} {question} {seed % 7} {n}", 0, n, 3, False) for n in range(2)]
            for question, seed in zip(questions, seeds, strict=True)
        ]


def reward(completion: str, example: Any) -> float:
    return len(completion) % 5 / 5 if example.answer.chain else 0.9


def parts(number: int = 80, size: int = 100, **others: Any) -> Parts:
    items = [Item(f"item {i}", f"question {i}", "", "") for i in range(size)]
    settings: dict[str, Any] = {
        "task": SimpleNamespace(items=items),
        "candidates": Drawn(),
        "reward": reward,
        "pairing": best_worst,
        "template": Template("{question}{answer}"),
        "number": number,
        "solutions": False,
        "seed": 0,
        "rows": 4,
        "compiled": False,
    }
    return Parts(**{**settings, **others})


@pytest.fixture(autouse=True)
def no_model(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(rounds, "_subject", lambda parts, settings: None)


def sampled(folder: Path, made: Parts, first: int = 0, world_size: int = 1) -> str:
    """The samples, by so many processes one after another."""
    folder.mkdir(exist_ok=True)
    for rank in range(world_size):
        rounds._sample(made, folder, first, {}, rank, world_size, None)
    rounds._finish(made, folder, first, "a round")
    return (folder / "samples.jsonl").read_text(encoding="utf-8")


def test_places_are_a_permutation_in_every_epoch() -> None:
    found = rounds.places(13, 0, 39, seed=3).reshape(3, 13)
    assert (np.sort(found, axis=1) == np.arange(13)).all()
    assert len({tuple(row) for row in found}) == 3


@pytest.mark.parametrize(("first", "number"), [(0, 5), (11, 4), (13, 13), (25, 14), (38, 1)])
def test_places_depend_on_nothing_but_their_number(first: int, number: int) -> None:
    whole = rounds.places(13, 0, 39, seed=3)
    assert (rounds.places(13, first, number, 3) == whole[first : first + number]).all()
    assert (rounds.places(13, 0, 39, seed=4) != whole).any()


def test_two_processes_sample_what_one_does(tmp_path: Path) -> None:
    one = sampled(tmp_path / "one", parts())
    assert sampled(tmp_path / "two", parts(), world_size=2) == one
    assert sampled(tmp_path / "five", parts(), world_size=5) == one
    rows = [json.loads(line) for line in one.split("\n")[:-1]]
    assert [row["index"] for row in rows] == list(range(80))
    assert all(row["answers"][0]["text"].startswith(ODD) for row in rows)


def test_the_next_round_draws_what_comes_behind(tmp_path: Path) -> None:
    rows = [
        json.loads(line)
        for first in (0, 80)
        for line in sampled(tmp_path / str(first), parts(), first).split("\n")[:-1]
    ]
    assert [row["index"] for row in rows] == list(range(160))
    # The first hundred prompts are all there are; then they come again, answered anew.
    assert len({row["name"] for row in rows[:100]}) == 100
    assert len({row["answers"][0]["text"] for row in rows}) > 100


def test_what_is_drawn_again_is_said(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    # The run's own log does not go to others.
    with caplog.at_level("WARNING"):
        rounds.log.propagate = True
        try:
            sampled(tmp_path / "all", parts(number=100))
            assert not caplog.records
            sampled(tmp_path / "again", parts(number=21), first=80)
        finally:
            rounds.log.propagate = False
    assert "some are drawn again" in caplog.text


def test_a_stop_loses_a_portion_at_most(tmp_path: Path) -> None:
    whole = sampled(tmp_path / "whole", parts())
    stopped = parts(candidates=Drawn(fails_at=2))
    with pytest.raises(KeyboardInterrupt):
        sampled(tmp_path / "run", stopped)
    assert [len(call) for call in stopped.candidates.calls] == [32, 32]
    on = parts()
    assert sampled(tmp_path / "run", on) == whole
    assert [len(call) for call in on.candidates.calls] == [16]
    assert not list((tmp_path / "run").glob("*.part"))


@pytest.mark.parametrize("cut", [1, 2, 30, 200])
def test_a_torn_line_is_drawn_again_and_tears_no_other(tmp_path: Path, cut: int) -> None:
    whole = sampled(tmp_path / "whole", parts())
    with pytest.raises(KeyboardInterrupt):
        sampled(tmp_path / "run", parts(candidates=Drawn(fails_at=1)))
    (journal,) = (tmp_path / "run").glob("*.part")
    journal.write_bytes(journal.read_bytes()[:-cut])
    assert sampled(tmp_path / "run", parts()) == whole


def test_other_processes_go_on_with_what_was_sampled(tmp_path: Path) -> None:
    whole = sampled(tmp_path / "whole", parts())
    (tmp_path / "run").mkdir()
    rounds._sample(parts(), tmp_path / "run", 0, {}, 1, 2, None)
    on = parts()
    assert sampled(tmp_path / "run", on) == whole
    assert sum(map(len, on.candidates.calls)) == 80 - 32


def test_what_a_round_leaves(tmp_path: Path) -> None:
    made = parts(number=8)
    text = sampled(tmp_path / "round", made, first=40)
    told = json.loads((tmp_path / "round/round.json").read_text())
    rows = [json.loads(line) for line in (tmp_path / "round/pairs.jsonl").open()]
    assert (told["first"], told["next"], told["pairs"]) == (40, 48, len(rows))
    assert told["prompts"] == rounds.prompts_mark(made)
    assert told["samples"] == rounds.digest_of(text)
    answers = {row["question"]: row["answers"] for row in map(json.loads, text.split("\n")[:-1])}
    for row in rows:
        first, second = answers[row["prompt"]]
        assert (row["chosen"], row["rejected"]) == (first["text"], second["text"])
        assert (row["score_chosen"], row["score_rejected"]) == (0.9, second["score"])
    assert {path.name for path in (tmp_path / "round").iterdir()} == {
        "samples.jsonl", "pairs.jsonl", "round.json", "statistics.json", "chains.html"
    }  # fmt: skip


def test_scores_that_are_no_numbers_are_counted(tmp_path: Path) -> None:
    def half(completion: str, example: Any) -> float:
        known = int(example.item.name.split()[1]) % 2
        return reward(completion, example) if known else math.nan

    sampled(tmp_path / "round", parts(number=100, reward=half))
    stats = json.loads((tmp_path / "round/statistics.json").read_text())["pairs"]
    assert (stats["kept"], stats["dropped"]) == (50, {"no usable answer": 50})
    assert stats["unused"] == {"no score": 100}


def test_pairs_of_one_question_are_too_few(tmp_path: Path) -> None:
    """Nothing would be left to validate on."""
    seen: list[str] = []

    def one(completion: str, example: Any) -> float:
        seen.append(example.item.name)
        return reward(completion, example) if seen[-1] == seen[0] else math.nan

    with pytest.raises(DataError, match=r"pairs of one question only are left of 5 prompts \(4 no"):
        sampled(tmp_path / "round", parts(number=5, reward=one))


def test_no_pair_is_an_error_that_says_why(tmp_path: Path) -> None:
    with pytest.raises(DataError) as error:
        sampled(tmp_path / "round", parts(number=5, reward=lambda *_: math.nan))
    line = str(error.value)
    assert "no pair is left of 5 prompts (5 no usable answer; their answers: 10 no score)" in line
    assert "samples.jsonl" in line and "\n" not in line
    # The samples took long: they are there to be looked at.
    assert (tmp_path / "round/samples.jsonl").is_file()
    assert not (tmp_path / "round/round.json").exists()


def test_rows_that_contradict_their_scores_have_none(tmp_path: Path) -> None:
    def later(answers: list[Answer]) -> Any:
        return SimpleNamespace(pairs=[(1, 0)][: len(answers)], unused=Counter(), dropped=Counter())

    sampled(tmp_path / "round", parts(number=3, pairing=later))
    rows = [json.loads(line) for line in (tmp_path / "round/pairs.jsonl").open()]
    assert len(rows) == 3 and not any("score_chosen" in row for row in rows)


def start(path: Path | None = None, **meta: Any) -> Any:
    return SimpleNamespace(path=path, meta=meta)


def test_the_cursor_is_that_of_the_same_prompts() -> None:
    made = parts()
    told = {"prompts": rounds.prompts_mark(made), "first": 0, "next": 80}
    assert rounds._first(made, start()) == 0
    assert rounds._first(made, start(round=told)) == 80
    for other in (parts(size=99), parts(seed=1)):
        assert rounds._first(other, start(round=told)) == 0


@pytest.fixture
def made(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Any:
    """`made` with parts that are given, and the calls that it came to."""
    given = parts(number=8)
    monkeypatch.setattr(rounds.Parts, "of", lambda settings: given)

    def call(begins: Any, resumed: bool) -> Any:
        return rounds.made({}, tmp_path / "run", begins, resumed=resumed)

    call.calls = given.candidates.calls
    return call


def test_a_round_that_is_made_is_taken(made: Any) -> None:
    first = made(start(), False)
    assert first.data({"path": None, "dir": "data"}) == {
        "path": str(first.folder / "pairs.jsonl"), "dir": "data"
    }  # fmt: skip
    assert made(start(), False).told == first.told and len(made.calls) == 1


def test_a_checkpoint_is_enough_to_make_it_again(made: Any, tmp_path: Path) -> None:
    first = made(start(round={"prompts": rounds.prompts_mark(parts()), "next": 16}), False)
    before = {path.name: path.read_bytes() for path in first.folder.iterdir()}
    for name, text in first.files().items():
        (tmp_path / name).write_text(text, encoding="utf-8")
    for path in first.folder.iterdir():
        path.unlink()
    again = made(start(tmp_path, round=first.told), True)
    assert again.told == first.told and again.told["first"] == 16
    assert {path.name: path.read_bytes() for path in again.folder.iterdir()} == before
    assert len(made.calls) == 1


def test_a_checkpoint_without_samples(made: Any, tmp_path: Path) -> None:
    with pytest.raises(CheckpointError, match=r"round\.samples\.jsonl is missing"):
        made(start(tmp_path, round={"first": 0}), True)


def test_the_prompts_own_solutions_are_better_answers(tmp_path: Path) -> None:
    items = [Item(f"item {i}", f"question {i}", "", "", solution=f"solved {i}") for i in range(9)]
    own = {"task": SimpleNamespace(items=items), "reward": lambda *_: 0.0, "number": 9}
    with pytest.raises(DataError, match="9 all wrong"):
        sampled(tmp_path / "without", parts(**own, solutions=False))
    text = sampled(tmp_path / "with", parts(**own, solutions=True))
    rows = [json.loads(line) for line in (tmp_path / "with/pairs.jsonl").open()]
    assert [row["chosen"] for row in rows] == [
        row["question"].replace("question", "solved")
        for row in map(json.loads, text.split("\n")[:-1])
    ]
    assert all((row["score_chosen"], row["score_rejected"]) == (1.0, 0.0) for row in rows)
    # The statistics are of what was sampled.
    assert json.loads((tmp_path / "with/statistics.json").read_text())["answers"] == 18


def test_solutions_that_are_not_there(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"round.solutions=true, but the prompts have none"):
        sampled(tmp_path / "round", parts(solutions=True))
