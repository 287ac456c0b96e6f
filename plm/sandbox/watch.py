"""What a program and all that it started use, read from /proc, and how they are ended."""

import contextlib
import os
import signal
import time
from dataclasses import dataclass

_TICK = 1 / os.sysconf("SC_CLK_TCK")
_PAGE_MIB = os.sysconf("SC_PAGE_SIZE") / 2**20


@dataclass
class Usage:
    """One look at all descendants of a process.

    Attributes:
        cpu_s: of the living, and of the dead that were waited for.
        memory_mib: resident, what is shared counted in part.
        tasks: processes and threads alive.
    """

    cpu_s: float = 0.0
    memory_mib: float = 0.0
    tasks: int = 0


def available() -> bool:
    """Whether this kernel tells a process's children."""
    return os.path.exists(f"/proc/self/task/{os.getpid()}/children")


def children(pid: int) -> list[int]:
    """Of all threads of a process; [] when it is gone."""
    found = []
    with contextlib.suppress(OSError):
        for task in os.listdir(f"/proc/{pid}/task"):
            with open(f"/proc/{pid}/task/{task}/children") as file:
                found += map(int, file.read().split())
    return found


def _stat(pid: int) -> list[str]:
    with open(f"/proc/{pid}/stat") as file:
        return file.read().rpartition(")")[2].split()


def _shared_out(pid: int) -> float:
    """Memory in MiB with shared pages divided among those that share them."""
    with open(f"/proc/{pid}/smaps_rollup") as file:
        for line in file:
            if line.startswith("Pss:"):
                return int(line.split()[1]) / 1024
    return 0.0


def usage(keeper: int, most_tasks: int, memory_mib: float) -> Usage:
    """What the program's processes use.

    Args:
        keeper: child of this process, not counted itself.
        most_tasks: stop counting beyond it.
        memory_mib: up to here the cheap and too high figure for memory will do.
    """
    total, pids = Usage(), children(os.getpid())
    seen: list[int] = []
    while pids and total.tasks <= most_tasks:
        pid = pids.pop()
        pids += children(pid)
        with contextlib.suppress(OSError, IndexError):
            fields = _stat(pid)
            own = 0 if pid == keeper else sum(map(int, fields[11:13]))
            total.cpu_s += (own + sum(map(int, fields[13:15]))) * _TICK
            if pid != keeper and fields[0] not in "ZX":
                total.tasks += int(fields[17])
                total.memory_mib += int(fields[21]) * _PAGE_MIB
                seen.append(pid)
    if total.memory_mib > memory_mib:
        with contextlib.suppress(OSError):
            total.memory_mib = sum(map(_shared_out, seen))
    return total


def waited() -> float:
    """Longest that one living task was ready to run and had no processor, in seconds.

    0 where the kernel does not tell. What has ended is not in it.
    """
    longest, pids = 0, children(os.getpid())
    while pids:
        pid = pids.pop()
        pids += children(pid)
        with contextlib.suppress(OSError):
            for task in os.listdir(f"/proc/{pid}/task"):
                with (
                    contextlib.suppress(OSError, IndexError, ValueError),
                    open(f"/proc/{pid}/task/{task}/schedstat") as file,
                ):
                    longest = max(longest, int(file.read().split()[1]))
    return longest / 1e9


def end(keeper: int) -> None:
    """Kill the keeper: with a PID namespace all others die with it, without one its group does."""
    for kill in (os.killpg, os.kill):
        with contextlib.suppress(ProcessLookupError, PermissionError):
            kill(keeper, signal.SIGKILL)


def sweep(keeper: int, timeout_s: float = 5.0) -> float:
    """Wait for the keeper, and kill and wait for all that became this process's children.

    Returns:
        Processor time in seconds of all that was waited for.
    """
    cpu_s, deadline = 0.0, time.monotonic() + timeout_s
    while True:
        try:
            pid, _, used = os.wait4(-1, os.WNOHANG)
        except ChildProcessError:
            return cpu_s
        if pid:
            cpu_s += used.ru_utime + used.ru_stime
            continue
        if time.monotonic() > deadline:
            return cpu_s
        end(keeper)
        for other in children(os.getpid()):
            with contextlib.suppress(ProcessLookupError, PermissionError):
                os.kill(other, signal.SIGKILL)
        time.sleep(0.0005)
