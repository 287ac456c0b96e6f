"""A run's plan as text: tables for a terminal."""

from collections.abc import Mapping, Sequence
from math import inf
from textwrap import wrap
from typing import Any

from plm.report.format import human_share, human_time, human_tokens

_GIB = 2**30


def human_bytes(count: float) -> str:
    """Bytes in the unit that leaves at most four digits: 1_536 is 1.5 KiB."""
    for unit, size in (("TiB", 2**40), ("GiB", 2**30), ("MiB", 2**20), ("KiB", 2**10)):
        if count >= size:
            return f"{count / size:.4g} {unit}"
    return f"{count:.0f} B"


def _table(rows: Sequence[Sequence[str]], left: int = 1) -> list[str]:
    """Rows as aligned columns; the first `left` columns to the left, the others to the right."""
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    return [
        "  "
        + "  ".join(
            cell.ljust(width) if index < left else cell.rjust(width)
            for index, (cell, width) in enumerate(zip(row, widths, strict=True))
        ).rstrip()
        for row in rows
    ]


def _model(plan: Mapping[str, Any]) -> list[str]:
    counted = plan["parameters"]
    rows = [["parameters", f"{counted['total']:,}"]]
    rows += [["  without embedding and head", f"{counted['without_embedding']:,}"]]
    rows += [[f"  {name}", f"{count:,}"] for name, count in counted["parts"].items()]
    lines = ["Model (exact)", *_table(rows)]
    for entry in plan["flops_per_token"]:
        off = entry["six_n_off"]
        lines.append(
            f"  FLOPs a token in windows of {entry['seq_len']}: forward {entry['forward']:.4g}, "
            f"training {entry['training']:.4g}"
        )
        lines.append(
            f"  the rule 6N says {entry['six_n']:.4g}, {abs(off):.1%} "
            f"{'less' if off < 0 else 'more'}; with activation checkpointing "
            f"{entry['recomputed']:.4g} are done"
        )
    return lines


def _phases(plan: Mapping[str, Any]) -> list[str]:
    rows = [["phase", "share", "asked", "realised", "steps", "windows", "rate"]]
    for phase in plan["phases"]:
        rows.append(
            [
                phase["name"],
                human_share(phase["share"]),
                f"{phase['asked']:,}",
                f"{phase['tokens']:,}",
                f"{phase['steps']:,}",
                f"{phase['windows']:,} x {phase['seq_len']}",
                phase["rate"],
            ]
        )
    title = f"Phases: {human_tokens(plan['tokens'])} tokens in {plan['steps']:,} steps (exact)"
    return [title, *_table(rows)]


def _epochs(value: float | None) -> str:
    return "-" if value is None else f"{value:.2f}"


def _sources(plan: Mapping[str, Any]) -> list[str]:
    rows = [["phase", "source", "tokens", "epochs", "epochs so far"]]
    for entry in plan["sources"]:
        epochs = [_epochs(entry[key]) for key in ("epochs", "epochs_so_far")]
        rows.append([entry["phase"], entry["source"], f"{entry['tokens']:,}", *epochs])
    totals = [["source", "tokens in all", "of", "known as", "epochs"]]
    for entry in plan["source_totals"]:
        size = human_tokens(entry["size"]) if entry["size"] else "-"
        how = entry["size_from"] or "-"
        totals.append(
            [entry["source"], f"{entry['tokens']:,}", size, how, _epochs(entry["epochs"])]
        )
    lines = ["Sources (tokens exact)", *_table(rows, left=2), "", *_table(totals)]
    return lines + [line for note in _notes(plan["source_totals"]) for line in _wrapped(note)]


def _wrapped(text: str) -> list[str]:
    return wrap(text, 100, initial_indent="  ", subsequent_indent="    ")


def _notes(totals: Sequence[Mapping[str, Any]]) -> list[str]:
    """What the table of totals leaves open, and text that is read more often than costs little."""

    def often(key: str) -> dict[str, float]:
        return {e["source"]: e[key] for e in totals if (e[key] or 0) > (e["max_epochs"] or inf)}

    notes = []
    if any(entry["epochs"] is None for entry in totals):
        notes.append(
            "-: neither prepared nor published; say what there is with "
            "tokens_of=name:1.3T,name:200B"
        )
    if any(entry["size_from"] == "published" for entry in totals):
        notes.append("Published sizes are of whole sets, before cleaning, in their makers' tokens.")
    most = {e["source"]: e["max_epochs"] for e in totals}
    if repeated := often("epochs"):
        shown = ", ".join(
            f"{name} {count:.1f} times (limit {most[name]:g})" for name, count in repeated.items()
        )
        notes.append(
            f"Warning: read past data.max_epochs: {shown}. Up to four epochs cost little, later "
            "ones are worth less and less (Muennighoff et al., arXiv:2305.16264): lower their "
            "weights, or add text."
        )
    if streamed := often("epochs_at_least"):
        shown = ", ".join(f"{name} {count:,.0f} times" for name, count in streamed.items())
        notes.append(
            "Warning: the recipe streams only max_bytes of each source, which this run would read "
            f"so often at the least: {shown}. Raise max_bytes under their origins."
        )
    return notes


def _memory(plan: Mapping[str, Any]) -> list[str]:
    about, gpus = plan["memory"], plan["time"]["gpus"]
    device = about["device_bytes"]
    parts = [setup["parts"] for setup in about["setups"]]
    names = [n for n in dict.fromkeys(n for p in parts for n in p) if any(p.get(n) for p in parts)]
    rows = [["GiB on each GPU", *names, "total", "fits", "largest micro-batch"]]
    for setup in about["setups"]:
        extra = ", checkpointing" if setup["checkpoint_activations"] else ""
        sizes = [f"{setup['parts'].get(name, 0) / _GIB:.2f}" for name in names]
        rows.append(
            [
                setup["strategy"] + extra,
                *sizes,
                f"{setup['total'] / _GIB:.2f}",
                "yes" if setup["fits"] else "no",
                str(setup["largest_micro_batch"]),
            ]
        )
    return [
        f"Peak memory (estimate): micro-batch {about['micro_batch_size']} x {about['seq_len']}, "
        f"{about['precision']} precision, fsdp and zero2 over {gpus}",
        *_table(rows),
        f"  The loss takes {human_bytes(about['logits_chunked'])} in chunks; all logits would take "
        f"{human_bytes(about['logits_full'])} at the least.",
        f"  The {plan['time']['gpu']} has {device / _GIB:.1f} GiB by its data sheet; what CUDA, "
        "the collectives and a fragmented allocator take, often 1 to 3 GiB, is not counted.",
    ]


def _sizes(plan: Mapping[str, Any]) -> list[str]:
    sizes = plan["sizes"]
    rows = [
        ["checkpoint, weights only (fp32)", human_bytes(sizes["checkpoint_weights"])],
        ["checkpoint, all", human_bytes(sizes["checkpoint_all"])],
        ["export in 16 bits", human_bytes(sizes["export_16_bit"])],
        ["decoding state a token, as kept (16 bits)", human_bytes(sizes["kv_latent"])],
        ["decoding state a token, expanded (16 bits)", human_bytes(sizes["kv_expanded"])],
    ]
    return ["Sizes (exact, headers left out)", *_table(rows)]


def _time(plan: Mapping[str, Any]) -> list[str]:
    time = plan["time"]
    text = (
        f"  {human_time(time['hours'] * 3600)} on {time['gpus']} x {time['gpu']} at "
        f"{time['mfu']:.0%} of {time['peak_flops'] / 1e12:.0f} TFLOP/s (dense bf16, data sheet): "
        f"{time['gpu_hours']:,.4g} GPU-hours, {human_tokens(time['tokens_per_s'])} tokens/s"
    )
    if time["cost"] is None:
        cost = "  Cost: give price=<of one GPU-hour>"
    else:
        cost = f"  Cost: {time['cost']:,.2f} at {time['price']:g} a GPU-hour"
    return [f"Time (estimate): {time['flops']:.4g} FLOPs", text, cost]


def as_text(plan: Mapping[str, Any]) -> str:
    """The plan that `plm.plan.draw_up` makes, as tables.

    Args:
        plan: as returned there.
    """
    parts = (_model, _phases, _sources, _memory, _sizes, _time)
    return "\n\n".join("\n".join(part(plan)) for part in parts)
