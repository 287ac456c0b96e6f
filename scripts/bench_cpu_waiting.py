"""What OpenMP's threads cost while they wait for each other, spinning or asleep.

Started by bench_cpu.py (part=waiting), and by itself as the process that is measured: OpenMP reads
OMP_WAIT_POLICY once, when torch is loaded.
"""

import contextlib
import json
import os
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

# The checkout need not be installed: its root is not where Python looks for a script's imports.
sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

POLICIES = ("default", "PASSIVE")
BUSY = "while True: pass"


class Child:
    """A process with a model of ours that makes a step when it is told to.

    Args:
        policy: of POLICIES.
        own, rest: the arguments of bench_cpu.py.
        threads: of that process.
    """

    def __init__(self, policy: str, own: dict[str, Any], rest: list[str], threads: int) -> None:
        env = {name: value for name, value in os.environ.items() if name != "OMP_WAIT_POLICY"}
        env |= {"OMP_NUM_THREADS": str(threads)}
        if policy != "default":
            env["OMP_WAIT_POLICY"] = policy
        asked = [f"seq_len={own['seq_len'][0]}", f"vocab={own['vocab'][0]}"]
        asked += [f"tokens={own['tokens']}", f"threads={threads}", *rest]
        self.process = subprocess.Popen(
            [sys.executable, __file__, *asked],
            env=env,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )
        # The first step warms up.
        self.step()

    def step(self) -> Any:
        """What a step took."""
        from scripts.bench_common import Took

        assert self.process.stdin and self.process.stdout
        self.process.stdin.write("step\n")
        self.process.stdin.flush()
        said = self.process.stdout.readline()
        if not said:
            raise RuntimeError(f"the measured process ended with {self.process.wait()}")
        return Took(*json.loads(said))


@contextlib.contextmanager
def load(processes: int) -> Iterator[None]:
    """So many processes beside, each keeping a core busy."""
    beside = [subprocess.Popen([sys.executable, "-c", BUSY]) for _ in range(processes)]
    try:
        yield
    finally:
        for process in beside:
            process.kill()
            process.wait()


def bench_waiting(own: dict[str, Any], rest: list[str]) -> dict[str, Any]:
    """The policies in turn, alone and with as many busy processes as there are cores."""
    from scripts.bench_common import alternate, ratio, seconds

    cores = os.cpu_count() or 1
    children = {policy: Child(policy, own, rest, cores) for policy in POLICIES}
    found: dict[str, Any] = {"threads": cores}
    try:
        for name, number in (("alone", 0), ("beside_busy_processes", cores)):
            with load(number):
                took = alternate({p: c.step for p, c in children.items()}, own["alternations"])
            found[name] = {
                "passive_over_default": ratio(took["PASSIVE"], took["default"]),
                "seconds": {policy: seconds(t) for policy, t in took.items()},
                "load_average": os.getloadavg(),
            }
    finally:
        for child in children.values():
            child.process.kill()
            child.process.wait()
    return found


def serve(arguments: list[str]) -> None:
    """Make a step for each line that comes in; say its seconds."""
    import torch

    from plm import products
    from plm.memory import keep_freed_memory
    from scripts.bench_common import timed
    from scripts.bench_cpu import make_bench, read_arguments, stepper
    from scripts.bench_cpu_models import ours

    own, rest = read_arguments(arguments)
    torch.set_num_threads(own["threads"])
    keep_freed_memory()
    products.choose("auto")
    with tempfile.TemporaryDirectory(prefix="bench-") as folder:
        bench = make_bench(own, rest, Path(folder), own["seq_len"][0], own["vocab"][0])
        step = stepper(bench, ours(bench), own["precision"])
        for _ in sys.stdin:
            took = timed(step)
            print(json.dumps([took.cpu_s, took.wall_s]), flush=True)


if __name__ == "__main__":
    serve(sys.argv[1:])
