"""Tables and lists of a report; everything that comes in as text is escaped here."""

from collections.abc import Iterable, Mapping, Sequence
from html import escape
from typing import Any, NamedTuple


class Cell(NamedTuple):
    """A cell of a table with a CSS class."""

    text: str
    css: str = ""


def table(head: Sequence[str], rows: Iterable[Sequence[Cell | str]]) -> str:
    """A table whose first column names the row; on a phone each row becomes a card."""
    lines = []
    for row in rows:
        cells = [cell if isinstance(cell, Cell) else Cell(cell) for cell in row]
        first = f'<th scope="row">{escape(cells[0].text)}</th>'
        rest = "".join(
            f'<td class="{cell.css}" data-head="{escape(label)}">{escape(cell.text)}</td>'
            for label, cell in zip(head[1:], cells[1:], strict=True)
        )
        lines.append(f"<tr>{first}{rest}</tr>")
    top = "".join(f'<th scope="col">{escape(label)}</th>' for label in head)
    return f"<table><thead><tr>{top}</tr></thead><tbody>{''.join(lines)}</tbody></table>"


def definitions(pairs: Mapping[str, Any]) -> str:
    """Names and values; a value that is a mapping or a list is written in one line."""
    items = "".join(
        f"<div><dt>{escape(str(name))}</dt><dd>{escape(one_line(value))}</dd></div>"
        for name, value in pairs.items()
    )
    return f"<dl>{items}</dl>"


def tiles(items: Iterable[tuple[str, str, str]]) -> str:
    """Headline figures: (name, figure, what it is compared with)."""
    boxes = "".join(
        f"<div><dt>{escape(name)}</dt><dd>{escape(value)}</dd><dd>{escape(note)}</dd></div>"
        for name, value, note in items
    )
    return f'<dl class="tiles">{boxes}</dl>'


def one_line(value: Any) -> str:
    """A value from a JSON file as one line of text."""
    if isinstance(value, dict):
        return ", ".join(f"{name}: {one_line(inner)}" for name, inner in value.items())
    if isinstance(value, list | tuple):
        return ", ".join(one_line(inner) for inner in value)
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, int):
        return f"{value:,}"
    if value is None:
        return "unknown"
    return f"{value:.6g}" if isinstance(value, float) else str(value)
