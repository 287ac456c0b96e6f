"""The JSON of bench_cpu.py as Markdown, for docs/performance.md."""

import json
from pathlib import Path
from typing import Any

from plm.errors import ConfigError


def read(path: Path) -> dict[str, Any]:
    """What an earlier run printed.

    Raises:
        ConfigError: no such file, or it holds something else.
    """
    try:
        found = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise ConfigError(f"table={path}: {error}; give a file with bench_cpu.py's JSON") from None
    if not isinstance(found, dict) or not {"conditions", "command"} <= set(found):
        raise ConfigError(f"table={path} holds no JSON of bench_cpu.py")
    return found


def as_markdown(found: dict[str, Any]) -> str:
    """Command, conditions, and a table of ratios with their quartiles."""
    here = found["conditions"]
    versions = ", ".join(f"{name} {number}" for name, number in here["versions"].items())
    lines = [
        f"`python {found['command']}`",
        "",
        f"{here['processor']} ({here['cpu_capability']}), {here['cores']} cores, "
        f"{here['threads']} threads, {here['dtype']}, products={here['products']} "
        f"({'oneDNN' if here['onednn_for_fp32'] else 'torch'} for fp32), OMP_WAIT_POLICY "
        f"{here['omp_wait_policy']}, load {here['load_average'][0]:.1f}; Python {here['python']}, "
        f"{versions}.",
        "",
        "| what | CPU-seconds, median (quartiles) |",
        "|---|---|",
    ]
    for shape, step in found.get("step", {}).items():
        lines += _step(shape, step)
    if "loss" in found:
        lines += _loss(found["loss"])
    for name in ("alone", "beside_busy_processes") if "waiting" in found else ():
        for clock, figure in found["waiting"][name]["passive_over_default"].items():
            if clock != "rounds":
                what = f"{found['waiting']['threads']} threads {name.replace('_', ' ')}, {clock}"
                lines.append(f"| OMP_WAIT_POLICY PASSIVE over default, {what} | {_ratio(figure)} |")
    return "\n".join(lines)


def _step(shape: str, step: dict[str, Any]) -> list[str]:
    rows = [
        (f"{shape}: {way}, step over replay", _ratio(ratio["cpu"]))
        for way, ratio in step["step_over_replay"].items()
    ]
    rows += [
        (f"{shape}: ours over {name}", _ratio(ratio["cpu"]))
        for name, ratio in step["ours_over"].items()
    ]
    rows += [
        (f"{shape}: a step of {name}", f"{_ratio(s['cpu_s'])} s, {speed:,.0f} tokens a CPU-second")
        for (name, s), speed in zip(
            step["seconds"].items(), step["tokens_per_cpu_s"].values(), strict=True
        )
    ]
    rows += [(f"{shape}: {name}", f"left out: {why}") for name, why in step["left_out"].items()]
    return [f"| {what} | {figure} |" for what, figure in rows]


def _loss(loss: dict[str, Any]) -> list[str]:
    shapes, peaks = loss["shapes"], loss["peak_bytes"]
    what = f"loss, {shapes['rows']} x {shapes['hidden_size']}, V={shapes['vocab_size']}: "
    mebibytes = {name: f"{peak / 2**20:.0f} MiB" for name, peak in peaks.items()}
    return [
        f"| {what}time, chunked over full logits "
        f"| {_ratio(loss['time_chunked_over_full']['cpu'])} |",
        f"| {what}peak memory | {loss['peak_chunked_over_full']:.3f} "
        f"({mebibytes['chunked']} over {mebibytes['full']}) |",
        f"| {what}the same without the gradients | {loss['extra_chunked_over_full']:.3f} |",
    ]


def _ratio(spread: dict[str, float]) -> str:
    return f"{spread['median']:.3f} ({spread['quartile_1']:.3f} to {spread['quartile_3']:.3f})"
