"""A share in [0, 1] per layer over tokens, as a picture of coloured cells."""

import math
from html import escape

from plm.report.axes import Axis, Points, token_axis
from plm.report.charts import Frame, Size, token_ticks, x_ticks
from plm.report.run_folder import Band

_LEVELS = 16
_COLUMNS = {"wide": 120, "half": 80, "phone": 60}


def heatmap(
    title: str,
    layers: dict[str, Points],
    bands: list[Band],
    span: tuple[float, float],
    sizes: list[Size],
) -> str:
    """A figure with a row a layer, the first layer on top; each row ends with its last value.

    Args:
        layers: by layer, (tokens, share in [0, 1]).
        span: first and last token of the axis.
    """
    names = sorted(
        layers, key=lambda name: (not name.isdigit(), int(name) if name.isdigit() else 0)
    )
    shares = [share for name in names for _, share in layers[name]]
    low, high = math.floor(min(shares) * 10) / 10, math.ceil(max(shares) * 10) / 10
    high = max(high, low + 0.1)
    drawings = "".join(_drawing(title, names, layers, bands, span, (low, high), s) for s in sizes)
    cells = "".join(f'<i style="opacity:{_opacity(k):.2f}"></i>' for k in range(0, _LEVELS, 3))
    key = (
        f'<p class="key">{100 * low:.0f} % <span>{cells}</span> {100 * high:.0f} % · '
        "right: the last value of each layer, %</p>"
    )
    return (
        f'<figure class="{sizes[0].css}-figure"><figcaption>{escape(title)}</figcaption>{key}'
        f"{drawings}</figure>"
    )


def _opacity(level: int) -> float:
    return 0.06 + 0.94 * level / (_LEVELS - 1)


def _drawing(
    title: str,
    names: list[str],
    layers: dict[str, Points],
    bands: list[Band],
    span: tuple[float, float],
    limits: tuple[float, float],
    size: Size,
) -> str:
    row = min(26, max(6, 190 // len(names)))
    size = size._replace(height=26 + row * len(names) + 26)
    x_axis = token_axis(*span, x_ticks(size.width - 84))
    frame = Frame(size, x_axis, Axis(0, len(names), [], []), right=32)
    every = -(-11 // row)
    cells: dict[int, list[str]] = {}
    texts = []
    for index, name in enumerate(names):
        top = frame.top + index * row
        _add_row(cells, layers[name], frame, top, row, limits)
        if index % every == 0:
            middle, last = top + row / 2 + 4, layers[name][-1][1]
            texts.append(f'<text class="y" x="{frame.left - 7}" y="{middle:.1f}">{name}</text>')
            x = size.width - frame.right + 6
            texts.append(f'<text class="end" x="{x}" y="{middle:.1f}">{100 * last:.0f}</text>')
    paths = "".join(
        f'<path class="heat" fill-opacity="{_opacity(level):.2f}" d="{"".join(parts)}"/>'
        for level, parts in sorted(cells.items())
    )
    edges = "".join(
        f'<path class="edge" d="M{frame.px(band.start):.1f} {frame.top}v{frame.plot_height}"/>'
        for band in bands[1:]
    )
    return (
        f'<svg class="{size.css}" viewBox="0 0 {size.width} {size.height}" role="img" '
        f'aria-label="{escape(title)} over tokens"><text class="y" x="{frame.left - 7}" y="19">'
        f"layer</text>{paths}{edges}{''.join(texts)}{token_ticks(frame)}</svg>"
    )


def _add_row(
    cells: dict[int, list[str]],
    points: Points,
    frame: Frame,
    top: int,
    height: int,
    limits: tuple[float, float],
) -> None:
    """Add one layer's cells to the path of their level; a cell reaches back to the one before."""
    count = min(_COLUMNS[frame.size.css], len(points))
    left = frame.px(frame.x.low)
    for index in range(count):
        part = points[index * len(points) // count : (index + 1) * len(points) // count]
        share = sum(value for _, value in part) / len(part)
        place = (share - limits[0]) / (limits[1] - limits[0])
        level = min(_LEVELS - 1, max(0, round(place * (_LEVELS - 1))))
        right = frame.px(part[-1][0])
        width = right - left
        cells.setdefault(level, []).append(
            f"M{left:.1f} {top}h{width:.1f}v{height - 1}h{-width:.1f}z"
        )
        left = right
