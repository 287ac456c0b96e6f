"""The roofline's predictions as Markdown, for docs/performance.md."""

from collections.abc import Iterable, Mapping

from plm.kernels import roofline_peers as peers
from plm.kernels.roofline import OPS, Shape, break_even, predict
from plm.kernels.roofline_points import errors, unseen
from plm.kernels.roofline_step import MICRO_BATCHES, PAYS, fusions, micro_batch, parts
from plm.kernels.roofline_work import GPUS, LAUNCH_S, Work, seconds, total_bytes

# Other libraries' forms of our ops.
PEERS = {
    "linear_cross_entropy": {
        "Liger-Kernel": peers.liger_linear_cross_entropy,
        "quack": peers.quack_linear_cross_entropy,
        "cut-cross-entropy": peers.cce_linear_cross_entropy,
    },
    "relu2_mlp": {
        "Liger-Kernel": peers.liger_relu2_mlp,
        "quack": peers.quack_relu2_mlp,
    },
    "relu2": {"Liger-Kernel": peers.liger_relu2},
    "rms_norm": {"Liger-Kernel": peers.liger_rms_norm},
    "add_rms_norm": {"Liger-Kernel": peers.liger_add_rms_norm},
    "rope": {"Liger-Kernel": peers.liger_rope},
}


def _table(head: Iterable[str], rows: Iterable[Iterable[str]]) -> list[str]:
    lines = [list(head), *map(list, rows)]
    lines.insert(1, ["---"] * len(lines[0]))
    return [f"| {' | '.join(line)} |" for line in lines]


def _gpus() -> list[str]:
    rows = (
        (
            g.name,
            f"{g.flops / 1e12:,.0f}",
            f"{g.bandwidth / 1e9:,.0f}",
            f"{g.gemm:.2f}",
            f"{g.attention:.2f}",
            f"{g.memory:.2f}",
            f"{g.source}; {g.shares}",
        )
        for g in GPUS.values()
    )
    head = ("GPU", "TFLOPS", "GB/s", "products", "attention", "memory", "sources")
    return [
        "## GPUs as predicted with: data sheets and shares reached\n",
        "Seconds are the sum over an op's kernels of the longer of FLOPs over their rate and bytes "
        f"over theirs, and {LAUNCH_S * 1e6:.0f} µs a kernel. A product of few tiles pays for the "
        "waves it does not fill.\n",
        *_table(head, rows),
    ]


def _percent(value: float) -> str:
    return f"{value * 100:+.0f} %" if value < 0 else f"{value * 100:.0f} %"


def _errors() -> list[str]:
    every, held_out = errors(), errors(unseen)
    rows = []
    for kind, error in every.items():
        rest = held_out.get(kind)
        rows.append(
            (
                kind,
                str(error.count),
                _percent(error.median),
                _percent(error.worst),
                f"{error.bias * 100:+.0f} %",
                "–" if rest is None else f"{_percent(rest.median)} of {rest.count}",
            )
        )
    head = ("kernels", "points", "median error", "worst", "bias", "median, points not fitted to")
    return [
        "## How far predictions are off from times that others published\n",
        "Points: plm/kernels/roofline_data.py. Bias below 0: predicted too fast.\n",
        *_table(head, rows),
        "\nPlain torch is predicted too fast, rotation most of all, so that ratios to it are "
        "rather too low. Liger-Kernel's backward passes of norms take several times what their "
        "bytes need, with one program a multiprocessor; ours have as many, so their predictions "
        "are a lower bound until a GPU says otherwise. No point is of a 4090, of an MI300X, or of "
        "a backward pass of attention. A library may split a long sum where tiles are few; the "
        "model does not, which is why the head on an MI300X looks bad.",
    ]


def _times(name: str, shape: Shape) -> list[str]:
    rows = []
    for part, (fused, eager) in parts(shape).items():
        cells = []
        for gpu in GPUS.values():
            ours, other = seconds(fused, gpu), seconds(eager, gpu)
            cells.append(f"{ours * 1e3:.1f} / {other * 1e3:.1f} ({other / ours:.2f})")
        rows.append((part, *cells))
    totals = [micro_batch(shape, gpu) for gpu in GPUS.values()]
    rows.append(
        (
            "**micro-batch**",
            *(f"**{a * 1e3:.0f} / {b * 1e3:.0f} ({b / a:.2f})**" for a, b in totals),
        )
    )
    rows.append(
        ("tokens/s, ours", *(f"{shape.tokens / a:,.0f}" for a, _ in totals)),
    )
    return [
        f"## Predicted time of a micro-batch, {name}: {shape.batch} × {shape.length:,} tokens\n",
        "Milliseconds, ours / plain eager torch (ratio). Whether it fits into the memory is "
        "another question; the optimizer is shared by "
        f"{MICRO_BATCHES} micro-batches.\n",
        *_table(("part", *GPUS), rows),
    ]


def _ops(name: str, shape: Shape) -> list[str]:
    rows = []
    for op in OPS:
        found = {gpu.name: predict(op, shape, gpu) for gpu in GPUS.values()}
        first = found["H100"]
        rows.append(
            (
                op,
                f"{first.bytes_fused / 1e9:.2f} / {first.bytes_unfused / 1e9:.2f}",
                f"{first.launches_fused} / {first.launches_unfused}",
                *(f"{p.ratio:.2f} {p.bound}" for p in found.values()),
            )
        )
    return [
        f"## Predicted ratios of single ops, {name}\n",
        "Plain torch's predicted time over ours, forward and backward, and what ours is bound by; "
        "gigabytes and kernels ours / plain torch's.\n",
        *_table(("op", "GB", "kernels", *GPUS), rows),
    ]


def _fusions(shapes: Mapping[str, Shape]) -> list[str]:
    saved = {
        name: {f.name: (f, [f.saves(g) for g in GPUS.values()]) for f in fusions(shape)}
        for name, shape in shapes.items()
    }
    rows = []
    for name, (fusion, _) in next(iter(saved.values())).items():
        shares = [found[name][1] for found in saved.values()]
        cells = (f"{min(part) * 100:.1f} to {max(part) * 100:.1f} %" for part in shares)
        rows.append((name, "yes" if fusion.ours else "no", *cells, _verdict(shares)))
    return [
        "## Predicted share of a micro-batch that each fusion saves\n",
        "Least and most over the GPUs, everything else being ours; where ours does not do it, what "
        f"it would save. It pays where it saves over {PAYS:.0%} at one of the scales. Overlaps are "
        "not taken off: the shares do not add up.\n",
        *_table(("fusion", "in ours", *shapes, "pays on"), rows),
    ]


def _verdict(shares: list[list[float]]) -> str:
    best = [max(found) for found in zip(*shares, strict=True)]
    names = [name for name, share in zip(GPUS, best, strict=True) if share > PAYS]
    return "all" if len(names) == len(GPUS) else ", ".join(names) or "none"


def _break_even(shapes: Mapping[str, Shape]) -> list[str]:
    rows = [
        (op, name, *(f"{break_even(op, shape, gpu):.2f}" for gpu in GPUS.values()))
        for op in ("relu2_mlp", "mla_attention")
        for name, shape in shapes.items()
    ]
    return [
        "## Predicted break-even of the kernels that multiply matrices\n",
        "The other tables let a product in Triton be as fast as the library's, which is not known. "
        "Here: the share of the library's rate from which on ours is not slower than plain torch, "
        "whose attention is taken to be FlashAttention-2 on values padded to the keys' size.\n",
        *_table(("op", "scale", *GPUS), rows),
    ]


def peer_rows(shape: Shape) -> dict[tuple[str, str], tuple[list[Work], list[Work]]]:
    """By op and library: our kernels and theirs for the same job, forward and backward."""
    found = {}
    for op, forms in PEERS.items():
        ours = [work for part in OPS[op][0](shape) for work in part]
        for library, form in forms.items():
            found[op, library] = (ours, [work for part in form(shape) for work in part])
    return found


def _peers(shapes: Mapping[str, Shape]) -> list[str]:
    gpu, rows = GPUS["H100"], []
    for key in peer_rows(next(iter(shapes.values()))):
        cells = []
        for shape in shapes.values():
            ours, theirs = peer_rows(shape)[key]
            cells.append(f"{total_bytes(ours) / total_bytes(theirs):.2f}")
            cells.append(f"{seconds(ours, gpu) / seconds(theirs, gpu):.2f}")
        rows.append((*key, *cells))
    head = [f"{what}, {name}" for name in shapes for what in ("bytes", f"{gpu.name} time")]
    return [
        "## Predicted bytes and time of ours over those of other libraries\n",
        "For the same job, forward and backward; below 1 ours moves less, or is faster.\n",
        *_table(("op", "library", *head), rows),
    ]


def render(scales: Mapping[str, Mapping[str, int]]) -> str:
    """All tables, as Markdown with headings of the second level.

    Args:
        scales: by name, the settings of configs/scale/<name>.yaml.
    """
    shapes = {name: Shape.of(scale) for name, scale in scales.items()}
    blocks = [_gpus(), _errors()]
    for name, shape in shapes.items():
        blocks += [_times(name, shape), _ops(name, shape)]
    blocks += [_break_even(shapes), _fusions(shapes), _peers(shapes)]
    return "\n\n".join("\n".join(block) for block in blocks) + "\n"
