"""The report's sections of preference learning: the round, and the training's columns."""

import json
import re

import pytest

from plm.errors import DataError
from plm.report import write_report
from plm.rounds.statistics import of_round
from tests.report.conftest import metric_rows, write_metrics
from tests.rounds.made import prompt

ROUND = [
    prompt(0, [("one two", 0.0), ("one three", 1.0)], group="<sums>"),
    prompt(1, [("right", 1.0), ("right", 1.0)], group="gcd"),
]
SHOWN = ("nothing", "worse", "better")


def _section(folder, title: str) -> str:
    page = write_report(folder).read_text()
    found = re.search(rf"<section><h2>{title}</h2>(.*?)</section>", page, re.S)
    return "" if found is None else found.group(1)


def _keep(folder, stats) -> None:
    (folder / "round").mkdir(exist_ok=True)
    (folder / "round" / "statistics.json").write_text(json.dumps(stats))


def _learned(folder, rows: int = 40, **columns) -> None:
    """Columns of a preference run, each a line from 0 up to the given value."""
    table = metric_rows(rows)
    for index, row in enumerate(table, start=1):
        row |= {f"pref/{name}": value * index / rows for name, value in columns.items()}
        if index == rows:
            row |= {"val/pairs/accuracy": 0.75, "val/pairs/margin": 1.5}
    write_metrics(folder, table)


def _pictures(section: str) -> dict[str, list[str]]:
    """The curves of each picture by its title."""
    found = re.findall(r"<figcaption>(.*?)</figcaption>(.*?)</figure>", section, re.S)
    return {
        title: list(dict.fromkeys(re.findall(r'data-name="([^"]*)"', body)))
        for title, body in found
    }


def test_runs_of_other_stages_have_neither_section(run_folder):
    assert _section(run_folder, "Round") == "" and _section(run_folder, "Preferences") == ""
    assert "Loss, nats a token" in _section(run_folder, "Loss and learning rate")


def test_turns_groups_and_drops_of_a_round(run_folder):
    _keep(run_folder, of_round(ROUND, {"equal <scores>": 1234}, pairs=1))
    section = _section(run_folder, "Round")
    assert "2 prompts, 4 answers" in section and "1 pairs kept" in section
    assert '<th scope="row">turn\u00a01</th>' in section
    assert 'data-head="wrong → right">50.0\u00a0%<' in section
    assert 'data-head="copies">50.0\u00a0%<' in section
    assert "<summary>by group (2)</summary>" in section and '">&lt;sums&gt;</th>' in section
    assert "prompts without: equal &lt;scores&gt;</th>" in section and ">1,234</td>" in section
    assert "turn 1, &lt;sums&gt;: 100.0 %" in section and "turn 0, &lt;sums&gt;: 0.0 %" in section
    assert "href" not in section and "<sums>" not in section


def test_graded_scores_have_their_distribution(run_folder):
    stats = of_round([prompt(0, [("a", 0.25), ("b", 0.95)]), prompt(1, [("a", 0.55)])])
    _keep(run_folder, stats)
    section = _section(run_folder, "Round")
    assert "turn 0, 0.2 to 0.3: 50.0 %" in section and "turn 1, 0.9 to 1.0: 100.0 %" in section
    assert "mean score" in section and "wrong → right" not in section and "kept" not in section


def test_a_round_without_answers_is_told(run_folder):
    _keep(run_folder, of_round([]))
    assert "0 prompts" in _section(run_folder, "Round")


def test_the_chains_are_linked_where_they_are(run_folder):
    _keep(run_folder, of_round(ROUND))
    (run_folder / "round" / "chains.html").write_text("")
    assert '<a href="round/chains.html">' in _section(run_folder, "Round")


def test_a_torn_file_of_figures(run_folder):
    (run_folder / "round").mkdir()
    (run_folder / "round" / "statistics.json").write_text('{"prompts": 3')
    with pytest.raises(DataError, match=r"round/statistics\.json is not JSON"):
        write_report(run_folder)


def test_every_column_has_its_picture(run_folder):
    columns = {
        **{"accuracy": 0.9, "margin": 3.0, "kl": -1.0, "beta_d_worse": 0.7, "beta_d_better": 0.6},
        **{f"{kind}_{shown}": 0.8 for kind in ("d", "accuracy") for shown in SHOWN},
        **{f"{side}_{what}": 9 for side in ("chosen", "rejected") for what in ("logp", "tokens")},
    }
    _learned(run_folder, **columns)
    pictures = _pictures(_section(run_folder, "Preferences"))
    alone, sides = ["each logged step", "median of 5"], ["better answer", "worse answer"]
    shown = ["question alone", "worse answer shown", "better answer shown"]
    assert pictures == {
        "Pairs with D above 0": alone,
        "D: log-ratio of better less worse answer, nats": alone,
        "Log-ratio of the answers to the reference, nats": alone,
        "Pairs with D above 0, by prompt, median of 5": shown,
        "D by prompt, nats, median of 5": shown,
        "β·D of the refinements; the pull ends at ½, median of 5": [*shown[1:], "½"],
        "Log-probability of an answer, nats, median of 5": sides,
        "Tokens of an answer, median of 5": sides,
        "Pairs with D above 0, held out": ["pairs"],
        "D: log-ratio of better less worse answer, nats, held out": ["pairs"],
    }
    losses = _section(run_folder, "Loss and learning rate")
    assert "Loss, mean over pairs" in losses and "nats a token" not in losses
    assert "Validation loss, mean over pairs" in _section(run_folder, "Validation by source")


def test_what_was_not_logged_is_left_out(run_folder):
    _learned(run_folder, rows=10, accuracy=0.5, d_nothing=1.0)
    pictures = _pictures(_section(run_folder, "Preferences"))
    assert list(pictures)[:2] == ["Pairs with D above 0", "D by prompt, nats"]
    assert pictures["D by prompt, nats"] == ["question alone"] and len(pictures) == 4


def test_the_line_at_a_half_lies_at_a_half(run_folder):
    _learned(run_folder, beta_d_worse=1.0, beta_d_better=0.0)
    section = _section(run_folder, "Preferences")
    svg = next(part for part in section.split("<svg ") if 'data-name="½"' in part)
    low, high, base, top, _ = map(float, re.search(r'data-y="([^"]*)"', svg).group(1).split(","))
    points = re.search(r'data-name="½" points="([^"]*)"', svg).group(1).split()
    heights = {float(point.split(",")[1]) for point in points}
    assert len(points) == 2 and len(heights) == 1
    assert low + (base - heights.pop()) / (base - top) * (high - low) == pytest.approx(
        0.5, abs=0.01
    )
