"""Results as lines of text."""

from collections.abc import Mapping, Sequence

from plm.evaluation.common import Result
from plm.evaluation.statistics import Figure

HEAD = ("task", "figure", "value", "error", "95 % interval", "by", "items")


def lines(results: Mapping[str, Result]) -> list[str]:
    """A table, a row a figure; notes below it."""
    rows = [
        (name, key, *cells(figure))
        for name, result in results.items()
        for key, figure in result.figures.items()
    ]
    notes = [f"{name}: {note}" for name, r in results.items() for note in r.notes]
    return [*aligned([HEAD, *rows]), *notes]


def cells(figure: Figure) -> tuple[str, str, str, str, str]:
    """Value, error, interval, its kind and the number of items, as text."""
    interval = f"{number(figure.low)} to {number(figure.high)}"
    return (
        number(figure.value),
        number(figure.error),
        interval if number(figure.low) != "–" else "–",
        figure.interval,
        str(figure.n),
    )


def number(value: float | None) -> str:
    """Four digits after the point, fewer for large values and more for tiny ones; a dash for none.

    A tiny one is a p-value, say: it is not 0.
    """
    if value is None or value != value:
        return "–"
    if 0 < abs(value) < 1e-4:
        return f"{value:.1e}"
    return f"{value:.4f}" if abs(value) < 100 else f"{value:.1f}"


def aligned(rows: Sequence[Sequence[str]]) -> list[str]:
    """Columns of one width each: text to the left, numbers to the right."""
    widths = [max(len(row[i]) for row in rows) for i in range(len(rows[0]))]
    return [
        "  ".join(
            cell.ljust(width) if i < 2 else cell.rjust(width)
            for i, (cell, width) in enumerate(zip(row, widths, strict=True))
        ).rstrip()
        for row in rows
    ]
