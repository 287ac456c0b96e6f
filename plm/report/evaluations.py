"""The section of a report with the run's evaluations: newest figures, and curves over tokens."""

from html import escape
from itertools import count
from typing import Any

from plm.evaluation import stored, table
from plm.report.charts import Chart, Curve, figure, half
from plm.report.curves import missing
from plm.report.format import human_tokens
from plm.report.run_folder import Run
from plm.report.tables import table as html_table

_CURVES = 8
"""Curves in one picture at most; a task with more groups than that has its totals drawn."""
_HEAD = ("figure", "value", "standard error", "95 % interval", "by", "items", "tokens seen")


def evaluations(run: Run) -> str:
    """Each task's newest figures with their spread, and its figures over tokens."""
    if not stored.files(run.folder):
        return missing("tasks (scripts/evaluate.py, or callbacks.evaluation)")
    found = stored.newest(run.folder)
    return "".join(
        f"<article><h3>{escape(name)} <small>{escape(_about(result))}</small></h3>"
        f"{_table(result)}{_notes(result)}{_pictures(run, name)}</article>"
        for name, result in sorted(found.items())
    )


def _about(result: dict[str, Any]) -> str:
    """How the task was asked, in a few words."""
    settings, parts = result["settings"], []
    if result["prompt"] != "none":
        parts.append(f"prompted by {result['prompt']}")
    for name in ("shots", "samples", "temperature", "seed", "items_seed"):
        if settings.get(name) is not None:
            parts.append(f"{name} {settings[name]}")
    weights = result["evaluation"].get("weights")
    parts += [f"weights: {weights}"] if weights not in (None, "last") else []
    return ", ".join([*parts, f"items {result['digest'][:8]}"])


def _table(result: dict[str, Any]) -> str:
    seen = result["evaluation"].get("tokens_seen")
    rows = []
    for name, told in result["figures"].items():
        interval = f"{table.number(told['low'])} to {table.number(told['high'])}"
        spread = interval if told["low"] is not None else "–"
        value, error = table.number(told["value"]), table.number(told["error"])
        tokens = human_tokens(seen) if seen is not None else "–"
        rows.append([name, value, error, spread, told["interval"], f"{told['n']:,}", tokens])
    return html_table(_HEAD, rows)


def _notes(result: dict[str, Any]) -> str:
    notes = "".join(f"<li>{escape(note)}</li>" for note in result["notes"])
    return f'<ul class="notes">{notes}</ul>' if notes else ""


def _pictures(run: Run, task: str) -> str:
    """One picture a kind of figure (accuracy, loss …) that was measured more than once."""
    kinds: dict[str, dict[str, list[tuple[float, float]]]] = {}
    for name, points in run.named(f"eval/{task}/").items():
        kind, _, group = name.partition("/")
        if len(points) > 1:
            kinds.setdefault(kind, {})[group] = points
    body = ""
    for kind, groups in kinds.items():
        if len(groups) > _CURVES:
            groups = {g: points for g, points in groups.items() if not g}
        curves = [
            Curve(group or "all", points, "dots", colour)
            for colour, (group, points) in zip(count(), groups.items(), strict=False)
        ]
        if curves:
            body += figure(Chart(f"{task}: {kind}", curves, run.bands, run.span), half())
    return f'<div class="pair">{body}</div>' if body else ""
