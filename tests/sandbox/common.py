"""Running a hostile program in the sandbox, and the same program without it."""

import os
import subprocess
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager

from plm.sandbox import Limits, Outcome
from plm.sandbox.client import Supervisor

# Each way to run that a machine may leave us with: all layers, and what is left without some.
FULL: tuple[str, ...] = ()
NO_MOUNT = ("mount",)
NO_NAMESPACES = ("namespaces",)
NO_SECCOMP = ("seccomp",)
ONLY_SECCOMP = ("namespaces", "landlock")
ONLY_LANDLOCK = ("namespaces", "seccomp")
ONLY_NAMESPACES = ("landlock", "seccomp", "uid")
NOTHING = ("namespaces", "landlock", "seccomp", "uid")


def inside(program: str, off: Sequence[str] = FULL, *, stdin: str = "", **limits: float) -> Outcome:
    """The program's outcome in a sandbox of its own, without the layers `off`."""
    supervisor = Supervisor(off)
    try:
        return supervisor.run(program, Limits(**limits), stdin)[0]
    finally:
        supervisor.close()


def outside(program: str, **settings) -> str:
    """What the program prints without any sandbox."""
    done = subprocess.run(
        [sys.executable, "-S", "-c", program],
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
        **settings,
    )
    return done.stdout


@contextmanager
def victim() -> Iterator[subprocess.Popen]:
    """A process that does nothing, to be attacked."""
    process = subprocess.Popen([sys.executable, "-S", "-c", "input()"], stdin=subprocess.PIPE)
    try:
        yield process
    finally:
        process.kill()
        process.wait()
        process.stdin.close()


def marked(mark: str) -> list[int]:
    """Processes of this machine with `mark` on their command line."""
    found = []
    for name in filter(str.isdigit, os.listdir("/proc")):
        try:
            with open(f"/proc/{name}/cmdline", "rb") as file:
                found += [int(name)] * (mark.encode() in file.read())
        except OSError:
            continue
    return found
