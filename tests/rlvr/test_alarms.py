"""Each alarm: when it is said, how often, and that it can stop a run."""

import logging
from pathlib import Path
from typing import Any

import pytest

from plm.errors import CheckpointError, ConfigError, GuardStop
from plm.rlvr.alarms import Alarms

FINE = {"cut": 0.1, "same": 0.5, "low": 0.0, "high": 1.0, "entropy": 0.5}
# What is looked at, how often in a row until it is said with patience=3, and what is said.
KINDS = {
    "cut": ({"cut": 0.4}, 1, "40% of the answers were cut: raise rollouts.max_new_tokens"),
    "constant": (
        {"low": 0.5, "high": 0.5, "same": 1.0}, 3, "every reward has been 0.5 for 3 samplings"
    ),
    "same": ({"same": 1.0}, 3, "no group's rewards have differed for 3 samplings"),
    "entropy": ({"entropy": 0.001}, 1, "the policy's entropy is 0.0010 nats a token"),
}  # fmt: skip
EACH = pytest.mark.parametrize("kind", KINDS)


def _said(caplog: pytest.LogCaptureFixture) -> list[str]:
    return [record.getMessage() for record in caplog.records]


@pytest.fixture(autouse=True)
def heard(caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(logging.getLogger("plm"), "propagate", True)
    caplog.set_level(logging.WARNING, "plm")


@EACH
def test_is_said_once_and_alone(kind: str, caplog: pytest.LogCaptureFixture) -> None:
    figures, patience, text = KINDS[kind]
    alarms = Alarms(patience=3)
    for step in range(patience):
        assert _said(caplog) == []
        alarms.look(step, FINE | figures)
    (line,) = _said(caplog)
    assert line.startswith(f"step {patience - 1}: {text}")
    for step in range(9):
        alarms.look(step, FINE | figures)
    assert len(_said(caplog)) == 1


@EACH
def test_stops_the_run_where_it_is_asked_to(kind: str) -> None:
    figures, patience, text = KINDS[kind]
    alarms = Alarms(action="stop", patience=3)
    for step in range(patience - 1):
        alarms.look(step, FINE | figures)
    with pytest.raises(GuardStop, match=r"alarms\.action=warn goes on") as error:
        alarms.look(7, FINE | figures)
    assert str(error.value).startswith(f"step 7: {text}")


@pytest.mark.parametrize("kind", ["constant", "same"])
def test_one_sampling_that_differs_begins_the_count_anew(
    kind: str, caplog: pytest.LogCaptureFixture
) -> None:
    figures, patience, _ = KINDS[kind]
    alarms = Alarms(patience=3)
    for _ in range(3):
        for step in range(patience - 1):
            alarms.look(step, FINE | figures)
        alarms.look(9, FINE)
    assert _said(caplog) == []


def test_what_is_fine_says_nothing(caplog: pytest.LogCaptureFixture) -> None:
    alarms = Alarms(action="stop", patience=1)
    for figures in (FINE, FINE | {"cut": 0.3, "entropy": 0.01}, FINE | {"same": 0.99}):
        alarms.look(1, figures)
    # Before the first step, and after a resume, it is not known.
    for entropy in ({"entropy": float("nan")}, {}):
        alarms.look(1, {k: v for k, v in FINE.items() if k != "entropy"} | entropy)
    assert _said(caplog) == []


def test_different_alarms_are_said_each(caplog: pytest.LogCaptureFixture) -> None:
    Alarms(patience=1).look(0, {"cut": 1.0, "same": 1.0, "low": 0.0, "high": 1.0, "entropy": 0.0})
    assert len(_said(caplog)) == 3


@pytest.mark.parametrize(
    ("settings", "line"),
    [
        ({"action": "shout"}, r"alarms\.action=shout is not one of warn, stop"),
        ({"patience": 0}, r"alarms: patience=0 must be at least 1"),
        ({"cut": 1.5}, r"cut=1\.5 a share"),
        ({"cut": -0.1}, r"cut=-0\.1 a share"),
        ({"entropy": -1}, r"entropy=-1 at least 0"),
    ],
)
def test_settings_that_cannot_work(settings: dict[str, Any], line: str) -> None:
    with pytest.raises(ConfigError, match=line):
        Alarms(**settings)


@EACH
def test_a_checkpoint_goes_on_counting(
    kind: str, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    figures, patience, text = KINDS[kind]
    first, second, third = (Alarms(patience=3) for _ in range(3))
    for step in range(patience - 1):
        first.look(step, FINE | figures)
    first.write(tmp_path)
    second.read(tmp_path)
    second.look(patience - 1, FINE | figures)
    (line,) = _said(caplog)
    assert text in line
    # What was said is not said again.
    second.write(tmp_path)
    third.read(tmp_path)
    third.look(9, FINE | figures)
    assert len(_said(caplog)) == 1


@pytest.mark.parametrize("text", ["{", "[]", '{"same": 1}', '{"same": "x"}'])
def test_a_checkpoint_with_damaged_counts(tmp_path: Path, text: str) -> None:
    Alarms().read(tmp_path)
    (tmp_path / "alarms.json").write_text(text)
    with pytest.raises(CheckpointError, match=r"alarms\.json cannot be read"):
        Alarms().read(tmp_path)
