"""What is noted of each sampling, and which prompts varied the most."""

from pathlib import Path

import pytest

from plm.rlvr.history import FILE, note, ranked, read
from plm.rlvr.rollouts import Drawn
from scripts.rank_prompts import main
from tests.rlvr.made import prompt_set, rollout, source_of

PROMPTS = prompt_set(source_of("sums", 3))


def drawn(number: int, *accuracies: float) -> Drawn:
    """Groups of four, one a prompt, so many of them right."""
    made = [
        rollout([7], [1], number=number + item, item=item, sample=n,
                rewards={"right": float(n < 4 * share)})
        for item, share in enumerate(accuracies)
        for n in range(4)
    ]  # fmt: skip
    return Drawn(made, 4)


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    note(tmp_path, 0, drawn(0, 0.5, 0.0, 1.0), PROMPTS)
    note(tmp_path, 1, drawn(3, 0.5, 1.0, 0.75), PROMPTS)
    return tmp_path


def test_every_group_has_its_accuracy(folder: Path) -> None:
    found = [(one["step"], one["number"], one["accuracy"]) for one in read(folder)]
    assert found == [(0, 0, 0.5), (0, 1, 0.0), (0, 2, 1.0), (1, 3, 0.5), (1, 4, 1.0), (1, 5, 0.75)]


def test_what_a_killed_process_noted_counts_once(folder: Path) -> None:
    with (folder / FILE).open("a") as file:
        file.write('{"step": 2, "number": 6, "sou')
    before = list(read(folder))
    note(folder, 1, drawn(3, 0.5, 1.0, 0.75), PROMPTS)
    assert list(read(folder)) == before


def test_the_most_varied_comes_first(folder: Path) -> None:
    names = [item.name for item in PROMPTS.sources["sums"].items]
    found = ranked(folder)
    assert [one.name for one in found] == [names[1], names[2], names[0]]
    assert [(one.variance, one.accuracy, one.times) for one in found] == [
        (0.25, 0.5, 2), (0.015625, 0.875, 2), (0.0, 0.5, 2)
    ]  # fmt: skip


def test_the_script_prints_them(folder: Path, capsys) -> None:
    assert main([f"run={folder}", "number=2"]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert len(lines) == 3 and lines[1].split()[:3] == ["0.2500", "0.5000", "2"]


@pytest.mark.parametrize(
    ("arguments", "line"),
    [
        ([], "run=<run folder> is missing"),
        (["run=nowhere"], "run=nowhere: there is no groups.jsonl"),
    ],
)
def test_what_cannot_be(arguments: list[str], line: str, capsys) -> None:
    assert main(arguments) == 2 and line in capsys.readouterr().err
