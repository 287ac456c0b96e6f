"""The report of a run: one HTML file that opens anywhere, offline."""

import os
from html import escape
from pathlib import Path

from plm.errors import DataError
from plm.report import curves, evaluations, facts, rewards, rounds
from plm.report.charts import COLOURS, Size, drawing
from plm.report.run_folder import Run, read_run
from plm.report.style import DRAWING, PAGE, SCRIPT, VARIABLES

_SECTIONS = (
    ("In short", facts.headline),
    ("Loss and learning rate", curves.loss),
    ("Validation by source", lambda run: curves.validation(run) + facts.baselines(run)),
    ("Evaluations", evaluations.evaluations),
    ("Preferences", rounds.preference),
    ("Round", rounds.round_section),
    ("Rewards", rewards.rewards),
    ("Mixture: asked and read", curves.mixture),
    ("Gradients", curves.gradients),
    ("Speed", curves.throughput),
    ("Activation sparsity", curves.sparsity),
    ("Samples", facts.samples),
    ("Data", facts.data),
    ("Conditions", facts.conditions),
    ("Configuration", facts.config),
)


def write_report(run_dir: Path) -> Path:
    """Write `report.html` into a run folder, from the folder's own files.

    Args:
        run_dir: a run folder; its metrics.csv is needed, what else is missing is said in the page.
    Returns:
        The path of the page, which is written whole or not at all.
    Raises:
        DataError: the folder or its metrics cannot be read, or the page cannot be written.
    """
    run = read_run(Path(run_dir))
    path = Path(run_dir) / "report.html"
    write_whole(path, render(run))
    return path


def render(run: Run) -> str:
    """The whole page as text."""
    # What belongs to one stage alone is empty in the runs of the others.
    sections = "".join(
        f"<section><h2>{title}</h2>{body}</section>"
        for title, part in _SECTIONS
        if (body := part(run))
    )
    model = run.summary.get("model") or {}
    about = " · ".join(str(t) for t in (run.summary.get("stage"), model.get("describe")) if t)
    return (
        '<!doctype html><html lang="en"><head><meta charset="utf-8">'
        '<meta name="viewport" content="width=device-width,initial-scale=1">'
        f"<title>{escape(run.name)}: report</title>"
        f"<style>{VARIABLES}{DRAWING}{PAGE}</style></head><body><main>"
        f"<header><h1>{escape(run.name)}{facts.status_pill(run)}</h1>"
        f"<p>{escape(about)}</p></header>"
        f"{sections}</main><script>{SCRIPT}</script></body></html>\n"
    )


def loss_picture(run_dir: Path, path: Path) -> Path:
    """Write the loss curve with its phases as an SVG of its own, for light and dark pages.

    Args:
        run_dir: a run folder.
        path: of the picture; its folder exists.
    Raises:
        DataError: as `write_report`, or the run has logged no loss.
    """
    run = read_run(Path(run_dir))
    chart = curves.loss_chart(run)
    if chart is None:
        raise DataError(
            f"{run.folder / 'metrics.csv'} has no loss to draw: no such column or value"
        )
    size = Size("alone", 880, 340)
    plot = drawing(chart, size).replace("<svg ", '<svg y="34" width="880" height="340" ', 1)
    names, x = [], 52
    for curve in chart.curves:
        names.append(
            f'<path class="s {curve.kind} c{curve.colour % COLOURS}" d="M{x} 24h22"/>'
            f'<text x="{x + 28}" y="28">{escape(curve.name)}</text>'
        )
        x += 60 + round(6.3 * len(curve.name))
    text = (
        '<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 880 382" width="880" height="382">'
        f"<title>{escape(run.name)}: {escape(chart.title)} over tokens</title>"
        f"<style>{VARIABLES}{DRAWING}</style>"
        '<rect width="880" height="382" rx="10" style="fill:var(--card)"/>'
        f"{''.join(names)}{plot}</svg>\n"
    )
    write_whole(Path(path), text)
    return Path(path)


def write_whole(path: Path, text: str) -> None:
    """Write a file under another name and rename it: a reader sees the old one or the new one."""
    part = path.with_name(f".{path.name}.{os.getpid()}")
    try:
        part.write_text(text, encoding="utf-8", errors="replace")
        os.replace(part, path)
    except OSError as error:
        part.unlink(missing_ok=True)
        raise DataError(f"{path} cannot be written: {error.strerror}") from error
