"""What benchmarks share: alternating measurements, their spread, the conditions they hold under."""

import os
import platform
import statistics
import subprocess
import time
from collections.abc import Callable
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path
from typing import Any

import torch

from plm.config import build

ROOT = Path(__file__).resolve().parents[1]


@dataclass(frozen=True)
class Took:
    """Seconds that a call took: of all cores together, and on the clock."""

    cpu_s: float
    wall_s: float


def timed(call: Callable[[], Any]) -> Took:
    """Run a call in this process."""
    cpu, wall = time.process_time(), time.perf_counter()
    call()
    return Took(time.process_time() - cpu, time.perf_counter() - wall)


def timed_child(command: list[str], accept: tuple[int, ...] = (0,)) -> Took:
    """Run a command to its end, with its children's CPU time.

    Args:
        command: from the root of the checkout.
        accept: exit codes that mean it went well.
    Raises:
        RuntimeError: it ended with another; what it said.
    """
    env = {**os.environ, "PYTHONPATH": str(ROOT)}
    wall = time.perf_counter()
    with subprocess.Popen(
        command, cwd=ROOT, env=env, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True
    ) as child:
        said = child.stdout.read() if child.stdout else ""
        _, status, used = os.wait4(child.pid, 0)
        child.returncode = os.waitstatus_to_exitcode(status)
    if child.returncode not in accept:
        raise RuntimeError(f"{' '.join(command)} ended with {child.returncode}:\n{said}")
    return Took(used.ru_utime + used.ru_stime, time.perf_counter() - wall)


def alternate(calls: dict[str, Callable[[], Took]], rounds: int) -> dict[str, list[Took]]:
    """Measure all in turn, every second round backwards, so that a drift hits each alike."""
    found: dict[str, list[Took]] = {name: [] for name in calls}
    for index in range(rounds):
        order = list(calls) if index % 2 == 0 else list(reversed(calls))
        for name in order:
            found[name].append(calls[name]())
    return found


def spread(values: list[float]) -> dict[str, float]:
    """Median and quartiles."""
    low, middle, high = statistics.quantiles(values, n=4, method="inclusive")
    return {"median": middle, "quartile_1": low, "quartile_3": high}


def ratio(over: list[Took], under: list[Took]) -> dict[str, Any]:
    """Of the times of the same rounds: CPU-seconds, which other load disturbs less, and wall."""
    both = list(zip(over, under, strict=True))
    return {
        "cpu": spread([a.cpu_s / b.cpu_s for a, b in both]),
        "wall": spread([a.wall_s / b.wall_s for a, b in both]),
        "rounds": len(both),
    }


def seconds(took: list[Took]) -> dict[str, Any]:
    """Median and quartiles of CPU and wall seconds."""
    return {
        "cpu_s": spread([one.cpu_s for one in took]),
        "wall_s": spread([one.wall_s for one in took]),
    }


def allocated_peak(call: Callable[[], Any]) -> int:
    """Most bytes of CPU tensors that a call holds above what there was before it."""
    from torch.profiler import ProfilerActivity, profile

    with profile(profile_memory=True, activities=[ProfilerActivity.CPU]) as seen:
        call()
    result = seen.profiler.kineto_results if seen.profiler else None
    events = [e for e in result.events() if e.name() == "[memory]"] if result else []
    now = peak = 0
    for event in sorted(events, key=lambda event: event.start_ns()):
        now += event.nbytes()
        peak = max(peak, now)
    return peak


def processor() -> str:
    """The CPU's name, as far as the system tells."""
    try:
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines()
    except OSError:
        return platform.processor()
    names = [line.partition(":")[2].strip() for line in lines if line.startswith("model name")]
    return names[0] if names else platform.machine()


def conditions() -> dict[str, Any]:
    """What the figures depend on besides the code."""
    packages = ("torch", "lightning", "transformers", "hydra-core", "numpy")
    return {
        "versions": {name: version(name) for name in packages},
        "python": platform.python_version(),
        "processor": processor(),
        "cpu_capability": torch.backends.cpu.get_cpu_capability(),
        "cores": os.cpu_count(),
        "threads": torch.get_num_threads(),
        "load_average": os.getloadavg(),
        "device": "cpu",
        "dtype": "float32",
    }


class Bench:
    """The settings and data that the parts share.

    Args:
        settings: the composed configuration, plain.
        overrides: what it was composed from.
        folder: for data and runs, thrown away later.
        rounds: alternations.
        steps: a round.
    """

    def __init__(
        self, settings: dict, overrides: list[str], folder: Path, rounds: int, steps: int
    ) -> None:
        self.settings, self.overrides, self.folder = settings, overrides, folder
        self.rounds, self.steps = rounds, steps
        self.rows = settings["micro_batch_size"]
        self.seq_len = settings["scale"]["seq_len"]
        self.shapes = {"micro_batch_size": self.rows, "seq_len": self.seq_len, "steps": steps}

    def batch(self) -> tuple[Any, Any]:
        """Random tokens [B, T] and the labels that follow them."""
        generator = torch.Generator().manual_seed(0)
        size = (self.rows, self.seq_len + 1)
        text = torch.randint(0, self.settings["model"]["vocab_size"], size, generator=generator)
        return text[:, :-1].contiguous(), text[:, 1:].contiguous()

    def our_model(self) -> Any:
        """The configured model with its first weights."""
        model = build(self.settings["model"])
        model.init_weights(0)
        return model.train()


def plain_step(model: Any, optimizer: Any, loss: Callable[[], Any]) -> None:
    """Forward, backward, clip, update: as short as it can be written."""
    loss().backward()
    torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
    optimizer.step()
    optimizer.zero_grad(set_to_none=True)
