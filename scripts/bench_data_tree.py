"""CPU seconds and memory of a process with all its descendants, from /proc (Linux)."""

import os
import resource
import subprocess
import tempfile
import time
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

from scripts.bench_common import ROOT, Took

_TICKS = os.sysconf("SC_CLK_TCK")
_SAMPLE_S = 0.05
_FIELDS = ("Rss", "Pss", "Pss_Anon", "Pss_File", "Pss_Shmem", "Swap")
_PEAKS = ("Pss", "Pss_Anon")


def descendants(pid: int) -> list[int]:
    """Children of all of a process's threads, and theirs; those that ended meanwhile are absent."""
    found = []
    for task in _listed(Path(f"/proc/{pid}/task")):
        for child in _text(task / "children").split():
            found += [int(child), *descendants(int(child))]
    return found


def _listed(folder: Path) -> list[Path]:
    try:
        return list(folder.iterdir())
    except OSError:
        return []


def _text(path: Path) -> str:
    try:
        return path.read_text(encoding="utf-8")
    except OSError:
        return ""


def tree_cpu_s() -> float:
    """CPU seconds so far of this process, of the children it waited for, and of those that live.

    Of the living, in ticks of the kernel's clock (a hundredth of a second, as a rule).
    """
    reaped = resource.getrusage(resource.RUSAGE_CHILDREN)
    total = time.process_time() + reaped.ru_utime + reaped.ru_stime
    for pid in descendants(os.getpid()):
        # After the name, which may hold blanks: state is field 0, times are 11 to 14.
        rest = _text(Path(f"/proc/{pid}/stat")).rpartition(")")[2].split()
        total += sum(map(int, rest[11:15])) / _TICKS
    return total


def timed_tree(call: Callable[[], Any]) -> Took:
    """Run a call in this process; its children's CPU seconds count, ended or not."""
    cpu, wall = tree_cpu_s(), time.perf_counter()
    call()
    wall = time.perf_counter() - wall
    return Took(tree_cpu_s() - cpu, wall)


def memory(pids: list[int]) -> Counter[str]:
    """Bytes over some processes, by field of smaps_rollup, and how many processes there were.

    Pss divides a shared page by the number of processes that map it: its sum counts each once.
    """
    total: Counter[str] = Counter()
    for pid in pids:
        lines = _text(Path(f"/proc/{pid}/smaps_rollup")).splitlines()
        total["processes"] += bool(lines)
        for name, _, value in (line.partition(":") for line in lines):
            if name in _FIELDS:
                total[name] += int(value.split()[0]) * 1024
    return total


class Peaks:
    """The most that a process tree held, and what else there was at that moment."""

    def __init__(self) -> None:
        self.most: Counter[str] = Counter()
        self.at: dict[str, Any] = {}
        self.samples = 0
        self._begun = time.perf_counter()

    def look(self, pid: int) -> None:
        """Sample once."""
        each = [memory([one]) for one in (pid, *descendants(pid))]
        now = sum(each, Counter())
        second = time.perf_counter() - self._begun
        for field in _PEAKS:
            if now[field] > self.most[field]:
                by_process = {f"{name}_of_each": [one[name] for one in each] for name in _PEAKS}
                self.at[field] = {"second": second, **now, **by_process}
        self.most |= now
        self.samples += 1


def watched(command: list[str]) -> dict[str, Any]:
    """Run a command, and look at the memory of its process tree all the time.

    Args:
        command: from the root of the checkout.
    Returns:
        Peak bytes by field; what else there was at the peaks of Pss and of its part that no file
        backs, where the first process is the command itself; seconds.
    Raises:
        RuntimeError: it failed; what it said.
    """
    env = {**os.environ, "PYTHONPATH": str(ROOT)}
    begun, peaks = time.perf_counter(), Peaks()
    # A file, not a pipe: nobody reads while the command runs.
    with (
        tempfile.TemporaryFile("w+", encoding="utf-8") as output,
        subprocess.Popen(
            command, cwd=ROOT, env=env, stdout=output, stderr=subprocess.STDOUT
        ) as child,
    ):
        status, used = 0, None
        while used is None:
            peaks.look(child.pid)
            ended, status, found = os.wait4(child.pid, os.WNOHANG)
            if ended:
                used = found
            else:
                time.sleep(_SAMPLE_S)
        child.returncode = os.waitstatus_to_exitcode(status)
        output.seek(0)
        said = output.read()
    if child.returncode:
        raise RuntimeError(f"{' '.join(command)} ended with {child.returncode}:\n{said}")
    return {
        "peak_bytes": dict(peaks.most),
        "at_peak_of": peaks.at,
        "samples": peaks.samples,
        "cpu_s": used.ru_utime + used.ru_stime,
        "wall_s": time.perf_counter() - begun,
    }
