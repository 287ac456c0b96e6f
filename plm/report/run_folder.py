"""What a report needs of a run, read from the files of its folder and nothing else."""

import csv
import json
import math
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NamedTuple

from plm.errors import DataError

DONE = ("done", "finished", "completed")
"""What `status` in summary.json says of a run that reached its end."""
ROUND = "round"
"""Folder, in a run's, of the answers that it was trained on."""
STATISTICS = "statistics.json"
"""Figures of these, in that folder, as plm.rounds.statistics.of_round gives them."""


class Band(NamedTuple):
    """The stretch of a run that one phase takes, in tokens."""

    name: str
    start: float
    end: float


@dataclass(frozen=True)
class Run:
    """A run folder in memory.

    Attributes:
        columns: each numeric column of metrics.csv, None where a cell is blank.
        phases: the phase of each row, "" where the file has no such column.
        bands: the phases over tokens, in order, without gaps.
        summary, manifest: the JSON files, empty where they are missing.
        not_finite: cells that were nan or inf, by column; they read as None.
        round: figures of the round that it was trained on, empty where there is none.
    """

    folder: Path
    columns: dict[str, list[float | None]]
    phases: list[str]
    bands: list[Band]
    summary: dict[str, Any]
    manifest: dict[str, Any]
    config_text: str
    not_finite: dict[str, int] = field(default_factory=dict)
    round: dict[str, Any] = field(default_factory=dict)

    @property
    def name(self) -> str:
        return str(self.summary.get("name") or self.folder.resolve().name)

    @property
    def status(self) -> str:
        """`unfinished` where the run has not written its summary."""
        return str(self.summary.get("status") or ("done" if self.summary else "unfinished"))

    def points(self, column: str) -> list[tuple[float, float]]:
        """(tokens, value) of each row where the column was measured."""
        pairs = zip(self.columns["tokens"], self.columns.get(column, []), strict=False)
        return [(x, y) for x, y in pairs if x is not None and y is not None]

    def named(self, prefix: str, suffix: str = "") -> dict[str, list[tuple[float, float]]]:
        """Points of every measured column `<prefix><name><suffix>`, by that name."""
        found = {}
        for column in self.columns:
            if column.startswith(prefix) and column.endswith(suffix):
                points = self.points(column)
                name = column[len(prefix) : len(column) - len(suffix)]
                if points and name:
                    found[name] = points
        return found

    @property
    def span(self) -> tuple[float, float]:
        """First and last token of the run, the limits of every axis over tokens."""
        return self.bands[0].start, self.bands[-1].end


def read_run(folder: Path) -> Run:
    """Read a run folder.

    Raises:
        DataError: no such folder; metrics.csv is missing, empty or holds what is not a number; a
            JSON file that cannot be parsed.
    """
    folder = Path(folder)
    if not folder.is_dir():
        raise DataError(f"run={folder} is not a folder; give the folder that a run printed")
    columns, phases, not_finite = _read_metrics(folder / "metrics.csv")
    summary = _read_json(folder / "summary.json")
    config = folder / "config.yaml"
    return Run(
        folder=folder,
        columns=columns,
        phases=phases,
        bands=_bands(columns["tokens"], phases, summary.get("phases")),
        summary=summary,
        manifest=_read_json(folder / "manifest.json"),
        config_text=config.read_text("utf-8", "replace") if config.is_file() else "",
        not_finite=not_finite,
        round=_read_json(folder / ROUND / STATISTICS),
    )


def _read_json(path: Path) -> dict[str, Any]:
    if not path.is_file():
        return {}
    try:
        content = json.loads(path.read_text("utf-8"))
    except ValueError as error:
        raise DataError(f"{path} is not JSON ({error}); remove it to go without it") from error
    if not isinstance(content, dict):
        raise DataError(f"{path} holds a {type(content).__name__}, not a mapping")
    return content


def _read_metrics(path: Path) -> tuple[dict[str, list[float | None]], list[str], dict[str, int]]:
    if not path.is_file():
        raise DataError(f"{path} is missing: the folder is not a run's, or no step was logged yet")
    with path.open(encoding="utf-8", newline="") as stream:
        rows = list(csv.reader(stream))
    if len(rows) < 2:
        raise DataError(f"{path} holds no row: the run has not logged a step yet")
    head, body = rows[0], rows[1:]
    if "tokens" not in head:
        raise DataError(f"{path} has no column 'tokens', which every curve is drawn over")
    # A run killed while it wrote leaves a last row with too few cells.
    if len(body[-1]) < len(head):
        body = body[:-1]
    columns: dict[str, list[float | None]] = {name: [] for name in head if name != "phase"}
    phases, not_finite = [], {}
    for number, row in enumerate(body, start=2):
        cells = dict(zip(head, row, strict=False))
        if not any(row):
            continue
        phases.append(cells.get("phase", ""))
        for name, values in columns.items():
            value = _number(cells.get(name, ""), path, number, name)
            if value is not None and not math.isfinite(value):
                not_finite[name] = not_finite.get(name, 0) + 1
                value = None
            values.append(value)
    if not any(value is not None for value in columns["tokens"]):
        raise DataError(f"{path} holds no whole row: the run has not logged a step yet")
    return columns, phases, not_finite


def _number(cell: str, path: Path, row: int, column: str) -> float | None:
    if not cell.strip():
        return None
    try:
        return float(cell)
    except ValueError:
        raise DataError(f"{path} row {row}, column {column}: {cell!r} is not a number") from None


def _bands(tokens: list[float | None], phases: list[str], told: Any) -> list[Band]:
    """The phases as the summary tells them, or as the rows show them where it does not."""
    last = max(value for value in tokens if value is not None)
    bands = []
    for phase in told if isinstance(told, list) else []:
        start, length = phase.get("start_tokens"), phase.get("tokens")
        if start is not None and length:
            bands.append(Band(str(phase.get("name", "")), start, start + length))
    # A run that went on after its summary was written has rows past the last band.
    if bands and bands[-1].end >= last:
        return bands
    return _bands_of_rows(tokens, phases)


def _bands_of_rows(tokens: list[float | None], phases: list[str]) -> list[Band]:
    rows = [(x, name) for x, name in zip(tokens, phases, strict=True) if x is not None]
    # A row tells the tokens after its step, so the first one started about a step earlier.
    step = rows[1][0] - rows[0][0] if len(rows) > 1 else rows[0][0]
    start = max(0.0, rows[0][0] - step)
    bands: list[Band] = []
    for x, name in rows:
        if bands and bands[-1].name == name:
            bands[-1] = bands[-1]._replace(end=max(x, bands[-1].end))
        else:
            bands.append(Band(name, bands[-1].end if bands else start, x))
    if bands[-1].end <= bands[0].start:
        bands[-1] = bands[-1]._replace(end=bands[0].start + 1)
    return bands
