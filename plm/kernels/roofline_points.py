"""The roofline held against published times: what it predicts for them, and how far off it is."""

import statistics
from collections import defaultdict
from collections.abc import Callable, Iterator
from dataclasses import dataclass

from plm.kernels.roofline_data import SERIES, Series
from plm.kernels.roofline_ops import eager_cross_entropy, eager_relu2
from plm.kernels.roofline_peers import liger_chunks, liger_cross_entropy
from plm.kernels.roofline_work import GPUS, Work, gemm, passes, seconds

# Below so many times a series' smallest time, where that is under half a millisecond, it is the
# host's launching that was timed.
HOST_FACTOR, HOST_MS = 1.5, 0.5
# Series that the GPUs' shares of peak and bandwidth were chosen by.
FITTED = {
    ("H100", "relu2", "liger", "forward"),
    ("H100", "attention", "triton", "forward"),
    ("A100-80G", "rope", "liger", "forward"),
    ("A100-80G", "swiglu_mlp", "liger", "forward"),
    ("A100-80G", "linear_cross_entropy", "eager", "full"),
    ("B200", "cross_entropy", "eager", "forward"),
    ("B200", "swiglu_mlp", "liger", "forward"),
}

_Passes = tuple[list[Work], list[Work]]


def _relu2(series: Series, size: int) -> _Passes:
    n = 4096 * size
    if series.form == "eager":
        return eager_relu2(n)
    return [passes("relu2", n, 2, 2)], [passes("gradient", n, 4, 2)]


def _add_rms_norm(series: Series, size: int) -> _Passes:
    # fp32 [2048, size] on the H100, bf16 [size, 4096] on the B200.
    narrow = series.gpu == "B200"
    rows, width = (size, 4096) if narrow else (2048, size)
    n, e = rows * width, 2 if narrow else 4
    if series.form == "liger":
        partial = GPUS[series.gpu].units * width
        sums = passes("sum of partials", partial, 4, 0)
        backward = Work("gradient", 3 * e * n, e * n + 4 * partial)
        return [passes("add, norm", n, 2 * e, 2 * e)], [backward, sums]
    # x + r, square, mean, · 1/rms, · weight; casts where it is bf16, and the product is fp32 again.
    casts = [passes("cast", n, 2, 4, 1)] * 2 + [passes("cast", n, 4, 2)] * 2 if narrow else []
    steps = [(8, 4), (4, 4), (4, 0), (4, 4), (e, 4)]
    forward = casts + [passes("step", n, r, w) for r, w in steps]
    # · weight: two products and a sum; · 1/rms the same; mean, square, and three sums of gradients.
    steps = [(8, 4), (8, 4), (4, 0), (8, 4), (8, 4), (4, 0), (0, 4), (8, 4), (4, 4), (8, 4), (8, 4)]
    return forward, [passes("step", n, r, w) for r, w in steps] + casts


def _rms_norm(series: Series, size: int) -> _Passes:
    n = 2048 * size
    if series.form == "liger":
        partial = 108 * size
        sums = passes("sum of partials", partial, 4, 0)
        return [passes("norm", n, 2, 2)], [Work("gradient", 4 * n, 2 * n + 4 * partial), sums]
    steps = [(2, 4), (4, 4), (4, 0), (4, 4), (4, 2), (2, 4)]
    forward = [passes("step", n, r, w) for r, w in steps]
    steps = [(8, 4), (8, 4), (4, 0), (2, 4), (8, 4), (8, 4), (4, 0), (0, 4), (8, 4), (4, 4)]
    return forward, [passes("step", n, r, w) for r, w in [*steps, (8, 4), (4, 2)]]


def _rope(series: Series, size: int) -> _Passes:
    # Queries and keys: 32 and 8 heads of 256 on the A100, of 128 on the B200.
    n = size * 40 * (256 if series.gpu == "A100-80G" else 128)
    if series.form == "liger":
        turn = [passes("turn in place", n, 2, 2)]
        return turn, turn
    steps = [(1, 1), (2, 2), (2, 2), (2, 2), (4, 2)]
    forward = [passes("step", n, r, w, 2) for r, w in steps]
    return forward, [*forward, passes("sum of gradients", n, 4, 2, 2)]


def _swiglu(series: Series, size: int) -> _Passes:
    return [passes("silu · up", 8192 * size, 4, 2)], []


def _swiglu_mlp(series: Series, size: int) -> _Passes:
    a100 = series.gpu == "A100-80G"
    rows, d, f = (4 * size, 4096, 11008) if a100 else (size, 4096, 14336)
    up, n = gemm("up, gate", rows, f, d), rows * f
    steps, back = [(4, 2)], [(6, 4)]
    if series.form == "eager":
        steps, back = [(2, 2), (4, 2)], [(4, 2), (4, 2), (4, 2)]
    middle = [passes("step", n, r, w) for r, w in steps]
    through, weights = gemm("gradient", rows, d, f), gemm("gradient of a weight", d, f, rows)
    backward = [up, *(passes("step", n, r, w) for r, w in back), through, through, *[weights] * 3]
    return [up, up, *middle, gemm("down", rows, d, f)], backward


def _cross_entropy(series: Series, size: int) -> _Passes:
    # Where the backward alone is timed the graph is kept, and the gradient copied once more.
    rows, vocab = (16384, size) if series.gpu == "A100-80G" else (size, 128256)
    if series.form == "eager":
        return eager_cross_entropy(rows, vocab, 4)
    forward, backward = liger_cross_entropy(rows, vocab, 4)
    copied = [passes("copy", rows * vocab, 4, 4)] if series.mode == "backward" else []
    return forward, backward + copied


def _linear_cross_entropy(series: Series, size: int) -> _Passes:
    d, v = 4096, 128256
    if series.form == "liger":
        return liger_chunks(size, size, d, v)
    forward, backward = eager_cross_entropy(size, v, 2)
    products = [gemm("hidden", size, d, v), gemm("weight", v, d, size)]
    return [gemm("logits", size, v, d), *forward], backward + products


def _attention(series: Series, size: int) -> _Passes:
    tensor, flops = 16384 * 16 * 128 * 2, 4.0 * 16 * 16384 * size * 128
    return [Work("attention", 3 * tensor, tensor, flops, attention=True)], []


_WORKS: dict[str, Callable[[Series, int], _Passes]] = {
    "relu2": _relu2,
    "add_rms_norm": _add_rms_norm,
    "rms_norm": _rms_norm,
    "rope": _rope,
    "swiglu": _swiglu,
    "swiglu_mlp": _swiglu_mlp,
    "cross_entropy": _cross_entropy,
    "linear_cross_entropy": _linear_cross_entropy,
    "attention": _attention,
}


def predicted_ms(series: Series, size: int) -> float:
    """What the roofline says for one point."""
    forward, backward = _WORKS[series.op](series, size)
    works = {"forward": forward, "backward": backward, "full": forward + backward}[series.mode]
    return seconds(works, GPUS[series.gpu]) * 1e3


def points(series: Series) -> Iterator[tuple[int, float, float]]:
    """Size, published and predicted milliseconds, without what only timed the host."""
    smallest = min(ms for _, ms in series.points)
    least = HOST_FACTOR * smallest if smallest < HOST_MS else 0.0
    for size, ms in series.points:
        if ms >= least:
            yield size, ms, predicted_ms(series, size)


@dataclass(frozen=True)
class Error:
    """How far predictions of a kind of kernel are off, over all points of it.

    Attributes:
        count: of points.
        median, worst: absolute, relative to the published time.
        bias: median with its sign; below 0 the prediction is too fast.
    """

    count: int
    median: float
    worst: float
    bias: float


def errors(by: Callable[[Series], str | None] = lambda series: series.kind) -> dict[str, Error]:
    """Errors by kind of kernel, or by what `by` says; None leaves a series out."""
    found = defaultdict(list)
    for series in SERIES:
        label = by(series)
        if label is not None:
            found[label] += [predicted / ms - 1 for _, ms, predicted in points(series)]
    return {
        label: Error(
            len(every),
            statistics.median(abs(e) for e in every),
            max(abs(e) for e in every),
            statistics.median(every),
        )
        for label, every in found.items()
    }


def unseen(series: Series) -> str | None:
    """Kind of a series that no share was chosen by."""
    return None if series.name in FITTED else series.kind
