"""How long the documents are: a histogram over lengths in tokens, each bin a like factor wide."""

from html import escape

import numpy as np

from plm.data.indexed import IndexedDataset
from plm.report.axes import Axis, log_axis, value_axis
from plm.report.charts import Frame, Size, half, token_ticks
from plm.report.format import axis_labels, human_share, human_tokens

_BINS_A_DECADE = 5


def bins(lengths: np.ndarray) -> np.ndarray:
    """Edges of the bins, whole numbers that rise by a like factor.

    Args:
        lengths: [N] int64, tokens of each document, at least one.
    Returns:
        [B + 1] int64; bin b holds lengths from edge b up to, but without, edge b + 1.
    """
    low, high = max(1, int(lengths.min())), int(lengths.max()) + 1
    first = int(np.floor(_BINS_A_DECADE * np.log10(low)))
    last = int(np.ceil(_BINS_A_DECADE * np.log10(high)))
    edges = 10.0 ** (np.arange(first, max(last, first + 1) + 1) / _BINS_A_DECADE)
    edges = np.unique(np.round(edges).astype(np.int64))
    edges[-1] = max(edges[-1], high)
    return edges


def histogram(name: str, datasets: list[IndexedDataset]) -> str:
    """A figure of one source: bars for the share of documents, a line for the share of tokens."""
    lengths = np.concatenate([np.diff(dataset.doc_starts) for dataset in datasets])
    if not len(lengths):
        return ""
    edges = bins(lengths)
    place = np.searchsorted(edges, np.maximum(lengths, 1), side="right") - 1
    documents = np.bincount(place, minlength=len(edges) - 1)
    tokens = np.bincount(place, weights=lengths, minlength=len(edges) - 1)
    drawings = "".join(_drawing(name, edges, documents, tokens, size) for size in half(210))
    middle = human_tokens(float(np.median(lengths)))
    about = f"median {middle}, longest {human_tokens(int(lengths.max()))} tokens"
    return (
        f'<figure class="half-figure"><figcaption>{escape(name)} <small>{about}</small>'
        f"</figcaption>{drawings}</figure>"
    )


def key() -> str:
    """What bars and line stand for."""
    return (
        '<ul class="legend"><li><svg width="22" height="10" aria-hidden="true">'
        '<rect class="bar" x="5" width="12" height="10"/></svg>share of the documents</li>'
        '<li><svg width="22" height="10" aria-hidden="true"><path class="s line c1" d="M1 5H21"/>'
        "</svg>share of the tokens that are in documents of this length</li></ul>"
    )


def _drawing(
    name: str, edges: np.ndarray, documents: np.ndarray, tokens: np.ndarray, size: Size
) -> str:
    shares = documents / documents.sum()
    of_tokens = tokens / max(1.0, tokens.sum())
    y = value_axis([*shares.tolist(), *of_tokens.tolist()], 4, zero=True)
    y = Axis(y.low, y.high, y.ticks, [f"{t} %" for t in axis_labels([100 * t for t in y.ticks])])
    ticks = log_axis([float(edges[0]), float(edges[-1])])
    inside = [i for i, tick in enumerate(ticks.ticks) if edges[0] <= tick <= edges[-1]]
    x = Axis(
        float(edges[0]),
        float(edges[-1]),
        [ticks.ticks[i] for i in inside],
        [ticks.labels[i] for i in inside],
        log=True,
    )
    frame = Frame(size, x, y, top=10)
    base = frame.top + frame.plot_height
    parts = []
    for tick, label in zip(y.ticks, y.labels, strict=True):
        at = frame.py(tick)
        parts.append(
            f'<path class="grid" d="M{frame.left} {at:.1f}h{frame.plot_width}"/>'
            f'<text class="y" x="{frame.left - 7}" y="{at + 4:.1f}">{label}</text>'
        )
    middles = []
    for b, share in enumerate(shares.tolist()):
        left, right = frame.px(edges[b]), frame.px(edges[b + 1])
        top = frame.py(share)
        told = (
            f"{edges[b]:,} to {edges[b + 1] - 1:,} tokens: {documents[b]:,} documents "
            f"({human_share(share)}), {human_share(float(of_tokens[b]))} of the tokens"
        )
        parts.append(
            f'<rect class="bar" x="{left + 1:.1f}" y="{top:.1f}" '
            f'width="{max(1.0, right - left - 2):.1f}" height="{base - top:.1f}">'
            f"<title>{told}</title></rect>"
        )
        middles.append(f"{(left + right) / 2:.1f},{frame.py(float(of_tokens[b])):.1f}")
    line = f'<polyline class="s line c1" points="{" ".join(middles)}"/>'
    return (
        f'<svg class="{size.css}" viewBox="0 0 {size.width} {size.height}" role="img" '
        f'aria-label="{escape(name)}: documents and tokens by length of document">'
        f"{''.join(parts)}{line}{token_ticks(frame)}</svg>"
    )
