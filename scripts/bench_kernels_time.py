"""Timing of contenders for one job, in turn, forward alone and with the backward."""

import time
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor

from scripts.bench_common import spread


@dataclass
class Job:
    """The same work by several contenders.

    Attributes:
        inputs: tensors by name; those that require a gradient get one in the backward.
        contenders: by name, `(**inputs) -> tensor or tensors`; "ours", "torch", "compiled", ….
        backward: whether there is one.
        missing: contenders that are not here, and why.
    """

    inputs: dict[str, Tensor]
    contenders: dict[str, Callable[..., Any]]
    backward: bool = True
    missing: dict[str, str] = field(default_factory=dict)


def measure(job: Job, device: torch.device, rounds: int) -> dict[str, Any]:
    """Milliseconds, ratios and peak memory of all contenders.

    A contender that raises is left out, with what it said.
    """
    failed = dict(job.missing)
    calls: dict[str, dict[str, Callable[[], Any]]] = {"forward": {}, "both": {}}
    for name, call in job.contenders.items():
        forward, both = _forward(call, job), _both(call, job)
        try:
            forward()
            if job.backward:
                both()
        except Exception as error:
            failed[name] = f"{type(error).__name__}: {str(error).splitlines()[0][:200]}"
            continue
        calls["forward"][name] = forward
        if job.backward:
            calls["both"][name] = both
    return {
        **{kind: _kind(found, device, rounds) for kind, found in calls.items()},
        "left_out": failed,
    }


def _forward(call: Callable[..., Any], job: Job) -> Callable[[], Any]:
    def run() -> Any:
        with torch.no_grad():
            return call(**job.inputs)

    return run


def _both(call: Callable[..., Any], job: Job) -> Callable[[], Any]:
    leaves = [tensor for tensor in job.inputs.values() if tensor.requires_grad]

    def run() -> Any:
        out = call(**job.inputs)
        outs = [o for o in (out if isinstance(out, tuple) else (out,)) if o.requires_grad]
        return torch.autograd.grad(outs, leaves, [torch.ones_like(o) for o in outs])

    return run


def _kind(calls: dict[str, Callable[[], Any]], device: torch.device, rounds: int) -> dict[str, Any]:
    times: dict[str, list[float]] = {name: [] for name in calls}
    for index in range(rounds if calls else 0):
        order = list(calls) if index % 2 == 0 else list(reversed(calls))
        for name in order:
            times[name].append(_milliseconds(calls[name], device))
    ours = times.get("ours", [])
    return {
        "ms": {name: spread(found) for name, found in times.items()},
        "ours_over": {
            name: spread([a / b for a, b in zip(ours, found, strict=True)])
            for name, found in times.items()
            if ours and name != "ours"
        },
        "peak_mib": {name: _peak(call, device) for name, call in calls.items()},
    }


def _milliseconds(call: Callable[[], Any], device: torch.device) -> float:
    if device.type == "cuda":
        from triton.testing import do_bench

        return float(do_bench(call, warmup=10, rep=50, return_mode="median"))
    start = time.perf_counter()
    call()
    return 1e3 * (time.perf_counter() - start)


def _peak(call: Callable[[], Any], device: torch.device) -> float | None:
    if device.type != "cuda":
        return None
    torch.cuda.synchronize(device)
    torch.cuda.reset_peak_memory_stats(device)
    before = torch.cuda.memory_allocated(device)
    held = call()
    torch.cuda.synchronize(device)
    del held
    return (torch.cuda.max_memory_allocated(device) - before) / 2**20
