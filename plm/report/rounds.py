"""The sections of a report on preference learning: the round's answers, and the training."""

from collections.abc import Iterable, Mapping, Sequence
from html import escape
from itertools import count
from typing import Any

from plm.report.bars import Bars, bars_figure
from plm.report.charts import Chart, Curve, figure, half, wide
from plm.report.curves import medians, noisy
from plm.report.format import axis_labels
from plm.report.run_folder import ROUND, Run
from plm.report.tables import table
from plm.rounds.statistics import headline, rows

CHAINS = "chains.html"
"""The page of sampled chains, in the round's folder."""
_BINARY = ("wrong → right", "right → wrong")
_OTHER = ("gained", "lost")

_SHOWN = {
    "nothing": "question alone",
    "worse": "worse answer shown",
    "better": "better answer shown",
}
_SIDES = {"chosen": "better answer", "rejected": "worse answer"}
_ALONE = (
    ("accuracy", "Pairs with D above 0", {"unit": "share"}),
    ("margin", "D: log-ratio of better less worse answer, nats", {}),
    ("kl", "Log-ratio of the answers to the reference, nats", {}),
)
# Title, the columns' names around what they tell apart, what that is, and how it is drawn.
_TOGETHER = (
    ("Pairs with D above 0, by prompt", "accuracy_{}", _SHOWN, {"unit": "share"}),
    ("D by prompt, nats", "d_{}", _SHOWN, {}),
    ("β·D of the refinements; the pull ends at ½", "beta_d_{}", _SHOWN, {}),
    ("Log-probability of an answer, nats", "{}_logp", _SIDES, {}),
    ("Tokens of an answer", "{}_tokens", _SIDES, {"zero": True}),
)
_HALF = "beta_d_{}"


def round_section(run: Run) -> str:
    """Figures of the round that the run was trained on; "" for a run without one."""
    if not run.round:
        return ""
    link = ""
    if (run.folder / ROUND / CHAINS).is_file():
        link = f'<p><a href="{ROUND}/{CHAINS}">Sampled chains, side by side</a></p>'
    return link + told(run.round)


def told(stats: Mapping[str, Any]) -> str:
    """All figures of a round.

    Args:
        stats: as plm.rounds.statistics.of_round gave them.
    """
    parts = (turns(stats), _groups(stats), distribution(stats), dropped(stats))
    return "".join(f"<article>{part}</article>" for part in parts if part)


def turns(stats: Mapping[str, Any]) -> str:
    """What was sampled, and a table of the turns."""
    own = rows(stats)[: len(stats["turns"])]
    cells = [(f"turn {turn}", *rest) for _, turn, *rest in own]
    return f"<p>{escape(headline(stats))}.</p>" + table(["", *_head(stats)], _unbroken(cells))


def _groups(stats: Mapping[str, Any]) -> str:
    """The turns of each group, below a fold."""
    found = rows(stats)[len(stats["turns"]) :]
    if not found:
        return ""
    inner = table(["group", "turn", *_head(stats)], _unbroken(found))
    return f"<details><summary>by group ({len(stats['groups'])})</summary>{inner}</details>"


def _unbroken(cells: Iterable[Sequence[str]]) -> list[list[str]]:
    """A figure and its unit on one line."""
    return [[cell.replace(" ", "\u00a0") for cell in row] for row in cells]


def _head(stats: Mapping[str, Any]) -> list[str]:
    changes = _BINARY if stats["binary"] else _OTHER
    score = "right" if stats["binary"] else "mean score"
    since = [f"{change}, since turn 0" for change in changes]
    return ["answers", "tokens each", score, *changes, *since, "copies", "length ratio", "cut"]


def distribution(stats: Mapping[str, Any]) -> str:
    """Scores turn by turn: a histogram, or where they are 0 or 1 what is right in each group."""
    if stats["binary"]:
        parts = {"all": stats, **stats["groups"]}
        numbers = [turn["turn"] for turn in stats["turns"]]
        series = {
            f"turn {n}": [_of_turn(p, n, "right_share") for p in parts.values()] for n in numbers
        }
        return bars_figure(Bars("Right answers by turn", list(parts), series), wide(220))
    series = {
        f"turn {turn['turn']}": [number / turn["scored"] for number in turn["distribution"]]
        for turn in stats["turns"]
        if turn["scored"]
    }
    labels = axis_labels(stats["edges"])
    return bars_figure(Bars("Answers by score, share of a turn", labels, series), wide(220))


def _of_turn(part: Mapping[str, Any], number: int, name: str) -> Any:
    return next((turn[name] for turn in part["turns"] if turn["turn"] == number), None)


def dropped(stats: Mapping[str, Any]) -> str:
    """Pairs that were kept, and what was left out and why."""
    kept, left = stats["pairs"]["kept"], stats["pairs"]["dropped"]
    if kept is None:
        return ""
    counts = {"pairs": kept, **{f"prompts without: {why}": number for why, number in left.items()}}
    return table(["", "number"], [(name, f"{n:,}") for name, n in counts.items()])


def preference(run: Run) -> str:
    """Margins, log-probabilities and lengths over tokens; "" for a run that learned no pairs."""
    if not run.named("pref/"):
        return ""
    body = "".join(
        noisy(run, f"pref/{name}", title, half(), **look)
        for name, title, look in _ALONE
        if run.points(f"pref/{name}")
    )
    body += "".join(_together(run, *picture) for picture in _TOGETHER)
    for kind, title, look in _ALONE[:2]:
        found = run.named("val/", f"/{kind}")
        chart = _chart(run, f"{title}, held out", found, **look)
        body += figure(chart, half()) if found else ""
    return f'<div class="pair">{body}</div>'


def _together(
    run: Run, title: str, column: str, names: Mapping[str, str], look: Mapping[str, Any]
) -> str:
    """Several columns in one picture, each as its running median."""
    found, width = {}, 1
    for part, name in names.items():
        if points := run.points(f"pref/{column.format(part)}"):
            found[name], width = medians(points)
    if not found:
        return ""
    title += f", median of {width}" if width > 1 else ""
    chart = _chart(run, title, found, kind="line", **look)
    if column == _HALF:
        chart.curves.append(Curve("½", [(x, 0.5) for x in run.span], "faint", -1))
    return figure(chart, half())


def _chart(
    run: Run,
    title: str,
    found: Mapping[str, list[tuple[float, float]]],
    kind: str = "dots",
    **look: Any,
) -> Chart:
    curves = [
        Curve(name, points, kind, colour)
        for colour, (name, points) in zip(count(), found.items(), strict=False)
    ]
    return Chart(title, curves, run.bands, run.span, **look)
