"""Ranks of one machine as child processes of `python -m plm.worker <run>/config.yaml`.

They start from the frozen configuration, without Hydra: a command line that composes again, or
sweeps, in every rank is how launches go wrong. Under torchrun or SLURM nothing is started here.
"""

import atexit
import ctypes
import os
import signal
import socket
import subprocess
import sys
import threading
import time
from pathlib import Path

from plm.errors import Interrupted

ROOT = Path(__file__).resolve().parents[1]
GRACE_S = 25.0


def external() -> bool:
    """Was this process started as one of several ranks by torchrun or the like?"""
    return int(os.environ.get("WORLD_SIZE", "1")) > 1 and "RANK" in os.environ


def take_signals() -> None:
    """Let SIGTERM and SIGUSR1 end this process as Ctrl-C does, until training takes them over."""
    if threading.current_thread() is threading.main_thread():
        for number in (signal.SIGTERM, signal.SIGUSR1):
            signal.signal(number, signal.default_int_handler)
        atexit.unregister(_let_end)
        atexit.register(_let_end)


def _let_end() -> None:
    """A signal to a process that is through would only break into its clearing up."""
    for number in (signal.SIGTERM, signal.SIGINT, signal.SIGUSR1):
        signal.signal(number, signal.SIG_IGN)


def _die_with_parent() -> None:
    if sys.platform == "linux":
        ctypes.CDLL(None).prctl(1, signal.SIGKILL)


def free_port() -> int:
    """A TCP port that is free on the loopback interface now."""
    with socket.socket() as sock:
        sock.bind(("127.0.0.1", 0))
        return sock.getsockname()[1]


def run_ranks(config: Path, ranks: int) -> int:
    """Start the ranks, pass signals on, wait; the first failure ends the others.

    Args:
        config: the run's frozen config.yaml.
        ranks: processes to start; 1 is a run in a process of its own.
    Returns:
        Exit code: 0, or the first one that was not.
    """
    shared = {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(free_port())}
    children = []
    for rank in range(ranks):
        # The checkout need not be installed, nor be where the command was given.
        path = os.pathsep.join(p for p in (str(ROOT), os.environ.get("PYTHONPATH")) if p)
        env = {**os.environ, "PYTHONPATH": path}
        if ranks > 1:
            env |= {**shared, "WORLD_SIZE": str(ranks), "RANK": str(rank)}
            env |= {"LOCAL_RANK": str(rank), "NODE_RANK": "0"}
            # Each rank would take all cores for itself.
            env.setdefault("OMP_NUM_THREADS", str(max(1, (os.cpu_count() or 1) // ranks)))
        children.append(
            subprocess.Popen(
                [sys.executable, "-m", "plm.worker", str(config)],
                env=env,
                start_new_session=True,
                preexec_fn=_die_with_parent,
            )
        )

    def forward(number: int, frame: object) -> None:
        for child in children:
            if child.poll() is None:
                child.send_signal(number)

    old = {
        number: signal.signal(number, forward)
        for number in (signal.SIGINT, signal.SIGTERM, signal.SIGUSR1)
    }
    try:
        return _wait(children)
    finally:
        for number, handler in old.items():
            signal.signal(number, handler)


def _wait(children: list[subprocess.Popen]) -> int:
    first, deadline = 0, None
    while any(child.poll() is None for child in children):
        failed = [c.returncode for c in children if c.returncode not in (None, 0)]
        if failed and deadline is None:
            first, deadline = failed[0], time.monotonic() + GRACE_S
        if deadline is not None and time.monotonic() > deadline:
            for child in children:
                if child.poll() is None:
                    child.kill()
        time.sleep(0.05)
    codes = [child.returncode for child in children]
    if Interrupted.exit_code in codes and all(c in (0, Interrupted.exit_code) for c in codes):
        return Interrupted.exit_code
    first = first or next((code for code in codes if code), 0)
    return first if first >= 0 else 128 - first
