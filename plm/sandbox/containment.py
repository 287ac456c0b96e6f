"""From the layers in force to what they contain, in words."""

import sys
from collections.abc import Collection


def _joined(*parts: str) -> str | bool:
    return ", ".join(part for part in parts if part) or False


def guards(held: Collection[str]) -> dict[str, bool | str]:
    """What is contained by what; False: not contained.

    Args:
        held: layers that a program's process reported.
    """
    linux = sys.platform == "linux"
    landlock = max((int(name[8:]) for name in held if name.startswith("landlock")), default=0)
    mount = "mount namespace" * ("mount" in held)
    pids = "PID namespace" * ("pids" in held)
    seccomp = "seccomp" * ("seccomp" in held)
    looks = "watchdog over all processes" * ("looks" in held)
    counted = "RLIMIT_NPROC" * ("nproc" in held)
    # Before its third version Landlock lets any file be emptied; what it never covers (modes,
    # owners, times) seccomp refuses.
    files = "Landlock" * (landlock >= 3 and bool(mount or seccomp))
    return {
        "environment": "own process, empty environment, no descriptor but 0, 1 and 2",
        "cpu_time": _joined("RLIMIT_CPU", looks),
        "wall_time": "watchdog",
        "output": "read up to its limit",
        "memory": _joined("RLIMIT_AS for each process" * linux, looks),
        "process_count": _joined(counted, looks),
        "file_reads": _joined(mount, "Landlock" * (landlock >= 1)),
        "file_writes": _joined(mount, files),
        "file_size": "RLIMIT_FSIZE",
        "disk": "tmpfs" if mount else False,
        "network": _joined("network namespace" * ("net" in held), seccomp),
        # Landlock alone refuses signals and tracing, but not another process's limits.
        "other_processes": _joined(pids, seccomp),
        "leftovers": _joined(pids, "process group, seccomp" * bool(seccomp and not pids)),
        "privileges": _joined(
            "no_new_privs" * linux,
            "no capabilities" * ("capabilities" in held),
            "unused user" * ("uid" in held),
        ),
        "kernel_interfaces": seccomp or False,
    }
