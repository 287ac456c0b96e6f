"""Bars side by side as inline SVG: some series over named or ordered places."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from html import escape

from plm.report.axes import Axis, value_axis
from plm.report.charts import COLOURS, Frame, Size
from plm.report.format import axis_labels, human_share

_LETTER = 6.3


@dataclass(frozen=True)
class Bars:
    """What one picture shows.

    Attributes:
        title: what is measured.
        labels: of the places, one each, or one more than places: then they stand at their borders.
        series: of each its shares, one a place; None where there is none.
    """

    title: str
    labels: Sequence[str]
    series: Mapping[str, Sequence[float | None]]

    @property
    def places(self) -> int:
        """How many there are."""
        return max((len(shares) for shares in self.series.values()), default=0)


def bars_figure(bars: Bars, sizes: list[Size]) -> str:
    """A figure with its heading, its legend and one drawing a size; "" without a share."""
    if not any(share is not None for shares in bars.series.values() for share in shares):
        return ""
    names = "".join(
        f'<li><svg width="22" height="10" aria-hidden="true"><rect x="5" width="12" height="10" '
        f'style="fill:var(--c{index % COLOURS})"/></svg>{escape(name)}</li>'
        for index, name in enumerate(bars.series)
    )
    drawings = "".join(_drawing(bars, size) for size in sizes)
    return (
        f'<figure class="{sizes[0].css}-figure"><figcaption>{escape(bars.title)}</figcaption>'
        f'<ul class="legend">{names}</ul>{drawings}</figure>'
    )


def _drawing(bars: Bars, size: Size) -> str:
    shares = [s for some in bars.series.values() for s in some if s is not None]
    y = value_axis(shares, 4, zero=True)
    y = Axis(y.low, y.high, y.ticks, [f"{t} %" for t in axis_labels([100 * t for t in y.ticks])])
    frame = Frame(size, Axis(0.0, float(bars.places), [], []), y, top=10)
    return (
        f'<svg class="{size.css}" viewBox="0 0 {size.width} {size.height}" role="img" '
        f'aria-label="{escape(bars.title)}">{_grid(frame)}{_rectangles(bars, frame)}'
        f"{_labels(bars, frame)}</svg>"
    )


def _grid(frame: Frame) -> str:
    parts = []
    for tick, label in zip(frame.y.ticks, frame.y.labels, strict=True):
        at = frame.py(tick)
        parts.append(
            f'<path class="grid" d="M{frame.left} {at:.1f}h{frame.plot_width}"/>'
            f'<text class="y" x="{frame.left - 7}" y="{at + 4:.1f}">{label}</text>'
        )
    base = frame.top + frame.plot_height
    return "".join(parts) + f'<path class="axis" d="M{frame.left} {base}h{frame.plot_width}"/>'


def _rectangles(bars: Bars, frame: Frame) -> str:
    base, parts = frame.top + frame.plot_height, []
    # A sixth of a place on each side stays free, which keeps the places apart.
    width = 2 / 3 / len(bars.series)
    for index, (name, shares) in enumerate(bars.series.items()):
        for place, share in enumerate(shares):
            if share is None:
                continue
            left = frame.px(place + 1 / 6 + index * width)
            right = frame.px(place + 1 / 6 + (index + 1) * width)
            top = frame.py(share)
            told = f"{name}, {_place(bars, place)}: {human_share(share)}"
            parts.append(
                f'<rect x="{left:.1f}" y="{top:.1f}" width="{max(1.0, right - left - 1):.1f}" '
                f'height="{base - top:.1f}" style="fill:var(--c{index % COLOURS})">'
                f"<title>{escape(told)}</title></rect>"
            )
    return "".join(parts)


def _place(bars: Bars, place: int) -> str:
    if len(bars.labels) > bars.places:
        return f"{bars.labels[place]} to {bars.labels[place + 1]}"
    return bars.labels[place]


def _labels(bars: Bars, frame: Frame) -> str:
    """Below the axis; those that have no room are shortened, or left out at borders."""
    base, parts = frame.top + frame.plot_height, []
    room = frame.plot_width / max(1, bars.places)
    between = len(bars.labels) > bars.places
    every = 1
    if between:
        longest = max(len(label) for label in bars.labels) * _LETTER + 6
        every = next(n for n in (1, 2, 5, 10, 10**9) if n * room >= longest)
    letters = max(1, int((room - 4) / _LETTER))
    for place, label in enumerate(bars.labels):
        if place % every:
            continue
        short = label if between or len(label) <= letters else label[: letters - 1] + "…"
        x = frame.px(place if between else place + 0.5)
        x = min(x, frame.size.width - 2 - len(short) * _LETTER / 2)
        parts.append(f'<text class="x" x="{x:.1f}" y="{base + 17}">{escape(short)}</text>')
    return "".join(parts)
