"""Benchmarks of the kernels on this machine's GPU against torch and other kernels, as JSON.

    python scripts/bench_kernels.py
    python scripts/bench_kernels.py op=mla_attention scale=135m record=true

op=<name>          one of the ops, several as mla_attention,rope, or all (the default)
scale=<name>       whose shapes: 1_8b (the default), 360m, 135m, micro, nano, test
tokens=<n>         tokens of a micro-batch; by default the scale's own
alternations=<n>   rounds in which the contenders run in turn, 7 by default
record=true        write into the file of this machine which ops lose to compiled torch: those are
                   then off here unless kernels=triton asks for them
device=cpu         tries the script itself: the plain forms run, and the figures say nothing

Each op runs forward, and forward and backward, in bf16: ours, plain torch, compiled torch, and the
same job by Liger-Kernel, quack, cut-cross-entropy and FlashAttention where they are installed.
Ratios are of the same round, ours over the other: below 1 is faster. Peak memory is above inputs.
"""

import json
import os
import sys
from pathlib import Path
from typing import Any

# The checkout need not be installed: its root is not where Python looks for a script's imports.
sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from plm.errors import ConfigError, PlmError
from scripts.arguments import read

DEFAULTS = {
    "op": "all", "scale": "1_8b", "tokens": 0, "alternations": 7, "record": False, "device": "cuda"
}  # fmt: skip


def device_of(name: str) -> Any:
    """The device to measure on.

    Raises:
        ConfigError: there is no such device.
    """
    import torch

    if name not in ("cuda", "cpu"):
        raise ConfigError(f"device={name} is not one of: cuda, cpu")
    if name == "cuda" and not torch.cuda.is_available():
        raise ConfigError(
            "no GPU that torch can use is here; what the kernels are is in docs/kernels.md, and "
            "device=cpu tries this script without saying anything about speed"
        )
    return torch.device(name)


def conditions(device: Any) -> dict[str, Any]:
    """What the figures depend on besides the code."""
    from importlib.metadata import PackageNotFoundError, version

    import torch

    found = {}
    for name in ("torch", "triton", "liger-kernel", "quack-kernels", "cut-cross-entropy",
                 "flash-attn"):  # fmt: skip
        try:
            found[name] = version(name)
        except PackageNotFoundError:
            found[name] = None
    name = torch.cuda.get_device_name(device) if device.type == "cuda" else "CPU"
    return {"versions": found, "device": name, "dtype": "bfloat16"}


def verdicts(results: dict[str, dict]) -> dict[str, dict]:
    """By op: whether it loses to compiled torch, forward and backward together.

    It loses where even the lower quartile of its ratio is above 1.
    """
    found = {}
    for op, result in results.items():
        ratio = result["both"].get("ours_over", {}).get("compiled")
        if ratio is not None:
            found[op] = {"off": ratio["quartile_1"] > 1.0, "ratio": ratio["median"]}
    return found


def write_record(path: Path, device: str, found: dict[str, dict]) -> None:
    """Put the verdicts of a device into the machine's file, beside those that are there."""
    try:
        known = json.loads(path.read_text("utf-8"))
    except (OSError, ValueError):
        known = {}
    known.setdefault(device, {}).update(found)
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_suffix(".part")
    temporary.write_text(json.dumps(known, indent=1) + "\n", "utf-8")
    os.replace(temporary, path)


def run(own: dict[str, Any]) -> dict[str, Any]:
    """Measure what was asked for."""
    import torch

    from plm.kernels.devices import record
    from scripts import bench_kernels_ops as ops
    from scripts.bench_kernels_time import measure

    device = device_of(own["device"])
    names = list(ops.OPS) if own["op"] == "all" else own["op"].split(",")
    for name in names:
        if name not in ops.OPS:
            raise ConfigError(f"op={name} is not one of: {', '.join(ops.OPS)}, all")
    shape = ops.shape_of(own["scale"], own["tokens"])
    results: dict[str, dict] = {}
    for name in names:
        torch.manual_seed(0)
        job = ops.OPS[name](shape, device)
        results[name] = measure(job, device, own["alternations"])
        print(f"{name}: done", file=sys.stderr, flush=True)
    about = conditions(device)
    if own["record"]:
        write_record(record(), about["device"], verdicts(results))
    return {"shape": shape, "results": results, "verdicts": verdicts(results), "conditions": about}


def main(arguments: list[str]) -> int:
    """Print the figures; the exit code."""
    if any(argument in ("-h", "--help") for argument in arguments):
        print(__doc__)
        return 0
    try:
        own = read(arguments, DEFAULTS, numbers=("tokens", "alternations"), flags=("record",))
        if own["alternations"] < 2:
            raise ConfigError("alternations must be at least 2, better 7: one has no spread")
        if own["record"] and own["device"] == "cpu":
            raise ConfigError("record=true with device=cpu: nothing was measured on a GPU")
        print(json.dumps(run(own), indent=1))
    except PlmError as error:
        print(error, file=sys.stderr)
        return error.exit_code
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
