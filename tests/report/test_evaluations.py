"""The report's section of evaluations: newest figures with spread, curves, nothing invented."""

import csv
import re

from plm.evaluation import stored
from plm.evaluation.common import Result
from plm.evaluation.statistics import Figure
from plm.report import write_report
from plm.report.style import PAGE


def _section(folder) -> str:
    page = write_report(folder).read_text()
    return re.search(r"<section><h2>Evaluations</h2>(.*?)</section>", page, re.S).group(1)


def _store(folder, name: str, tokens: int, value: float, **more) -> None:
    figure = Figure(value, 0.0123, value - 0.02, value + 0.02, 850, "wilson")
    settings = {"samples": 1, "temperature": 0.0, "seed": 7}
    told = Result({"accuracy": figure}, [], settings, "abcdef0123", "chat", **more)
    path = folder / "evaluations" / f"{name}.json"
    stored.write(path, {"tokens_seen": tokens, "time": 1.0}, {"exercises": told})


def test_without_evaluations_it_says_so(run_folder):
    assert "Not measured in this run: tasks" in _section(run_folder)


def test_newest_figures_with_their_spread(run_folder):
    _store(run_folder, "b", 2_800_000, 0.4321, notes=["gcd: <few> left"])
    _store(run_folder, "a", 1_000_000, 0.1111)
    section = _section(run_folder)
    for text in ("0.4321", "0.0123", "0.4121 to 0.4521", "wilson", ">850<", "2.80M"):
        assert text in section, text
    assert "0.1111" not in section and "<li>gcd: &lt;few&gt; left</li>" in section
    assert "prompted by chat" in section and "seed 7" in section and "items abcdef01" in section
    assert "<svg" not in section
    # Beneath the table, apart from its last row and no larger than its head.
    assert '</table><ul class="notes">' in section
    assert re.search(r"\.notes\{[^}]*margin:10px 0 0;[^}]*font-size:13px", PAGE)


def test_curves_over_tokens(run_folder):
    _store(run_folder, "a", 2_800_000, 0.4)
    path = run_folder / "metrics.csv"
    with path.open() as file:
        rows = list(csv.DictReader(file))
    for number, place in enumerate((50, 150, 250)):
        rows[place]["eval/exercises/accuracy"] = str(0.1 * number)
        rows[place]["eval/exercises/accuracy/gcd"] = str(0.2 * number)
        rows[place]["eval/exercises/cut"] = "0.5"
    names = list(dict.fromkeys(name for row in rows for name in row))
    with path.open("w", newline="") as file:
        writer = csv.DictWriter(file, names, restval="")
        writer.writeheader()
        writer.writerows(rows)
    section = _section(run_folder)
    assert "exercises: accuracy" in section and "exercises: cut" in section
    assert 'data-name="gcd"' in section and 'data-name="all"' in section
