"""Stored evaluations come back as they went; the newest result of each task is found."""

import json
import math
from pathlib import Path

import pytest

from plm.errors import ConfigError, DataError
from plm.evaluation import stored, table
from plm.evaluation.common import Result
from plm.evaluation.statistics import Figure

FIGURE = Figure(0.5, 0.25, 0.1, 0.9, 4, "wilson")


def result(value: float = 0.5, note: str = "") -> Result:
    figure = FIGURE._replace(value=value)
    notes = [note] if note else []
    return Result({"accuracy": figure}, [{"index": 0, "id": "a"}], {"n": 1}, "ab", "text", notes)


def test_round_trip_and_nan(tmp_path: Path):
    path = stored.write(tmp_path / "e" / "x.json", {"time": 1.0}, {"t": result(math.nan)})
    told = stored.read(path)
    assert told["tasks"]["t"]["figures"]["accuracy"]["value"] is None
    assert told["tasks"]["t"]["items"] == [{"index": 0, "id": "a"}]
    assert not list(tmp_path.glob("e/.*"))


def test_newest_by_tokens_then_time(tmp_path: Path):
    folder = tmp_path / stored.FOLDER
    stored.write(folder / "a.json", {"tokens_seen": 9, "time": 1.0}, {"t": result(0.9)})
    stored.write(
        folder / "b.json", {"tokens_seen": 5, "time": 3.0}, {"t": result(0.5), "u": result()}
    )
    stored.write(folder / "c.json", {"tokens_seen": 9, "time": 2.0}, {"t": result(0.7)})
    found = stored.newest(tmp_path)
    assert found["t"]["figures"]["accuracy"]["value"] == 0.7
    assert found["t"]["evaluation"]["time"] == 2.0 and set(found) == {"t", "u"}
    assert stored.newest(folder / "b.json")["t"]["figures"]["accuracy"]["value"] == 0.5


def test_what_cannot_be_read(tmp_path: Path):
    with pytest.raises(DataError, match=r"no stored evaluations; scripts/evaluate\.py"):
        stored.newest(tmp_path)
    (tmp_path / "x.json").write_text("{")
    with pytest.raises(DataError, match="cannot be read"):
        stored.read(tmp_path / "x.json")
    (tmp_path / "x.json").write_text(json.dumps({"format": 9}))
    with pytest.raises(DataError, match="no evaluation of format 1"):
        stored.read(tmp_path / "x.json")
    with pytest.raises(ConfigError, match="cannot be written"):
        stored.write(tmp_path / "x.json" / "y.json", {}, {})


def test_table():
    head, row, note = table.lines({"t": result(note="mind this")})
    assert head.split()[:3] == ["task", "figure", "value"]
    assert row.split() == "t accuracy 0.5000 0.2500 0.1000 to 0.9000 wilson 4".split()
    assert note == "t: mind this"
    assert table.number(None) == table.number(math.nan) == "–"
    assert table.number(12345.6) == "12345.6"
