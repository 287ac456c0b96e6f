"""Curves over tokens as inline SVG, drawn once for a wide page and once for a phone."""

from dataclasses import dataclass, replace
from html import escape
from typing import NamedTuple

from plm.report.axes import Axis, Points, log_axis, thin, token_axis, value_axis
from plm.report.format import axis_labels
from plm.report.run_folder import Band

COLOURS = 8
"""Colours of the palette; a ninth curve takes the first colour again, dashed."""
CURVE_POINTS = 600
_PHONE_POINTS = 300
_LETTER = 6.3


class Size(NamedTuple):
    """Of a drawing, in its own units, which are CSS pixels where it is shown at full width."""

    css: str
    width: int
    height: int


class Curve(NamedTuple):
    """One series of a chart.

    Attributes:
        kind: `line`, `faint` (raw values behind a smoothed line), `dots` (a line with a dot at
            each measurement) or `asked` (thin and dashed).
        colour: index into the palette; -1 is grey.
    """

    name: str
    points: Points
    kind: str = "line"
    colour: int = 0


@dataclass(frozen=True)
class Chart:
    """What one picture shows.

    Attributes:
        title: what is measured, with its unit.
        span: first and last token of the axis.
        log, zero: a logarithmic value axis; 0 on the value axis.
        unit: how the read-out prints a value: `plain`, `tokens` or `share`.
    """

    title: str
    curves: list[Curve]
    bands: list[Band]
    span: tuple[float, float]
    log: bool = False
    zero: bool = False
    unit: str = "plain"

    def values(self) -> list[float]:
        return [y for curve in self.curves for _, y in curve.points]


@dataclass(frozen=True)
class Frame:
    """Where the plot lies inside its drawing, and the scales of both axes."""

    size: Size
    x: Axis
    y: Axis
    left: int = 52
    right: int = 14
    top: int = 26
    bottom: int = 26

    @property
    def plot_width(self) -> int:
        return self.size.width - self.left - self.right

    @property
    def plot_height(self) -> int:
        return self.size.height - self.top - self.bottom

    def px(self, tokens: float) -> float:
        return self.left + self.x.place(tokens) * self.plot_width

    def py(self, value: float) -> float:
        return self.top + (1 - self.y.place(value)) * self.plot_height


def wide(height: int = 300) -> list[Size]:
    """The sizes of a picture as broad as the page."""
    return [Size("wide", 1072, height), Size("phone", 352, min(height, 240))]


def half(height: int = 250) -> list[Size]:
    """The sizes of a picture that shares its row with another one."""
    return [Size("half", 512, height), Size("phone", 352, min(height, 240))]


def figure(chart: Chart, sizes: list[Size]) -> str:
    """A figure with its heading, its legend and one drawing a size."""
    drawings = "".join(drawing(chart, size) for size in sizes)
    return (
        f'<figure class="{sizes[0].css}-figure"><figcaption>{escape(chart.title)}</figcaption>'
        f"{legend(chart.curves)}{drawings}</figure>"
    )


def legend(curves: list[Curve]) -> str:
    """The names of the curves with a sample of each; nothing for a single curve."""
    if len(curves) < 2:
        return ""
    # One entry stands for all dashed curves: each has the colour of the curve that it belongs to.
    asked = [curve._replace(name="asked", colour=-1) for curve in curves if curve.kind == "asked"]
    curves = [curve for curve in curves if curve.kind != "asked"] + asked[:1]
    items = "".join(
        f'<li><svg width="22" height="10" aria-hidden="true"><path class="{_css(curve)}" '
        f'd="M1 5H21"/></svg>{escape(curve.name)}</li>'
        for curve in curves
    )
    return f'<ul class="legend">{items}</ul>'


def drawing(chart: Chart, size: Size) -> str:
    """One SVG element of one size, without its legend."""
    frame = _frame(chart, size)
    limit = _PHONE_POINTS if size.css == "phone" else CURVE_POINTS
    # Many curves share the points of twelve, which keeps the page below a megabyte.
    limit = max(60, min(limit, 12 * limit // max(1, len(chart.curves))))
    x, y, base = frame.x, frame.y, frame.top + frame.plot_height
    # The read-out turns pixels back into values by these: range, then the pixels of its ends.
    across = f"{x.low:.10g},{x.high:.10g},{frame.left},{frame.left + frame.plot_width}"
    up = f"{y.low:.10g},{y.high:.10g},{base},{frame.top},{int(y.log)}"
    head = (
        f'<svg class="{size.css}" viewBox="0 0 {size.width} {size.height}" role="img" '
        f'aria-label="{escape(chart.title)} over tokens" data-unit="{chart.unit}" '
        f'data-x="{across}" data-y="{up}">'
    )
    body = band_marks(frame, chart.bands) + _grid(frame)
    return head + body + "".join(_curve(curve, frame, limit) for curve in chart.curves) + "</svg>"


def x_ticks(width: int) -> int:
    """How many ticks a token axis of this many pixels has room for."""
    return max(3, width // 90)


def _frame(chart: Chart, size: Size) -> Frame:
    values = chart.values()
    if chart.log:
        y = log_axis([value for value in values if value > 0])
    else:
        y = value_axis(values, max(3, size.height // 48), zero=chart.zero)
    if chart.unit == "share":
        y = replace(y, labels=[f"{label} %" for label in axis_labels([100 * t for t in y.ticks])])
    return Frame(size, token_axis(*chart.span, x_ticks(size.width - 66)), y)


def band_marks(frame: Frame, bands: list[Band]) -> str:
    """The phases behind a plot, each with its number and, where there is room, its name above."""
    parts = []
    for index, band in enumerate(bands):
        left, right = frame.px(band.start), frame.px(band.end)
        label = f"{index + 1} {band.name}" if band.name else ""
        if len(label) * _LETTER + 4 > right - left:
            label = str(index + 1) if band.name else ""
        parts.append(
            f'<rect class="band b{index % 4}" x="{left:.1f}" y="6" width="{right - left:.1f}" '
            f'height="{frame.size.height - 6 - frame.bottom}"/>'
        )
        if label and len(label) * _LETTER + 2 <= right - left:
            middle = (left + right) / 2
            parts.append(f'<text class="band-name" x="{middle:.1f}" y="19">{escape(label)}</text>')
    return "".join(parts)


def _grid(frame: Frame) -> str:
    left, right = frame.left, frame.left + frame.plot_width
    parts = []
    for tick, label in zip(frame.y.ticks, frame.y.labels, strict=True):
        y = frame.py(tick)
        parts.append(
            f'<path class="grid" d="M{left} {y:.1f}H{right}"/>'
            f'<text class="y" x="{left - 7}" y="{y + 4:.1f}">{label}</text>'
        )
    return "".join(parts) + token_ticks(frame)


def token_ticks(frame: Frame) -> str:
    """The token axis with its labels, the outermost of which stay inside the drawing."""
    base = frame.top + frame.plot_height
    parts = [f'<path class="axis" d="M{frame.left} {base}h{frame.plot_width}"/>']
    for tick, label in zip(frame.x.ticks, frame.x.labels, strict=True):
        x = frame.px(tick)
        room = frame.size.width - 2 - len(label) * _LETTER / 2
        parts.append(
            f'<path class="axis" d="M{x:.1f} {base}v4"/>'
            f'<text class="x" x="{min(x, room):.1f}" y="{base + 17}">{label}</text>'
        )
    return "".join(parts)


def _css(curve: Curve) -> str:
    if curve.colour < 0:
        return f"s {curve.kind} grey"
    again = " again" if curve.colour >= COLOURS else ""
    return f"s {curve.kind} c{curve.colour % COLOURS}{again}"


def _curve(curve: Curve, frame: Frame, limit: int) -> str:
    points = [point for point in curve.points if point[1] > 0 or not frame.y.log]
    places = [(frame.px(x), frame.py(y)) for x, y in thin(points, limit)]
    text = " ".join(f"{x:.1f},{y:.1f}" for x, y in places)
    name = escape(curve.name)
    line = f'<polyline class="{_css(curve)}" data-name="{name}" points="{text}"/>'
    if len(places) == 1 or (curve.kind == "dots" and len(places) <= 40):
        colour = f"c{curve.colour % COLOURS}"
        line += "".join(
            f'<circle class="dot {colour}" cx="{x:.1f}" cy="{y:.1f}" r="3"/>' for x, y in places
        )
    return line
