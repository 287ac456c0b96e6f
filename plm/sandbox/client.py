"""Running programs from the side of who wants them run."""

import atexit
import os
import shutil
import socket
import subprocess
import sys
import tempfile
import threading
from collections.abc import Collection, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict
from pathlib import Path
from typing import Any

from plm.errors import ConfigError
from plm.sandbox import containment
from plm.sandbox.limits import STRETCH, Limits, Outcome
from plm.sandbox.messages import receive, send

_ROOT = str(Path(__file__).resolve().parent.parent.parent)
_CODE = (
    "import sys; sys.path.insert(0, sys.argv[1]); from plm.sandbox.supervisor import main; "
    "main(sys.argv[2], sys.argv[3])"
)
_PATIENCE_S = 120.0
# What a program prints of a set may not depend on the run. A program itself sees none of it.
_ENVIRONMENT = {"PYTHONHASHSEED": "0"}


class Supervisor:
    """A handle on one supervising process; not for two threads at a time.

    Args:
        off: layers left out, for tests: namespaces, mount, pids, net, uid, landlock, seccomp.
    """

    def __init__(self, off: Collection[str] = ()):
        self.folder = tempfile.mkdtemp(prefix="plm-sandbox-")
        self.channel, theirs = socket.socketpair()
        self.log = tempfile.TemporaryFile()  # noqa: SIM115
        # The base interpreter: a program cannot see a virtual environment's folder.
        python = getattr(sys, "_base_executable", None) or sys.executable
        command = [os.path.realpath(python), "-S", "-s", "-P", "-c", _CODE]
        with theirs:
            self.process = subprocess.Popen(
                [*command, _ROOT, self.folder, ",".join(off)],
                stdin=theirs,
                stdout=subprocess.DEVNULL,
                stderr=self.log,
                env=_ENVIRONMENT,
                cwd="/",
                start_new_session=True,
            )

    def run(
        self, program: str, limits: Limits, stdin: str = "", require: Sequence[str] = ()
    ) -> tuple[Outcome, list[str]]:
        """The program's outcome, and the layers that were in force.

        Raises:
            ConfigError: what `require` names is not contained here (the program did not run), or
                the supervisor cannot start a program or has died.
        """
        request = {"program": program, "stdin": stdin, "limits": asdict(limits)}
        answer: Any = None
        # It keeps the wall limit itself; this is for a supervisor that cannot.
        self.channel.settimeout(STRETCH * limits.wall_s + _PATIENCE_S)
        try:
            send(self.channel, request | {"require": list(require)})
            answer = receive(self.channel)
        except TimeoutError:
            self.process.kill()
        except OSError:
            pass
        if answer is None:
            code = self.process.wait(10)
            self.log.seek(0)
            last = self.log.read().decode(errors="replace").rstrip().rpartition("\n")[2]
            raise ConfigError(
                f"sandbox: its supervisor ended with exit code {code}"
                f" ({last or 'was it killed for want of memory?'}); the program's outcome is lost"
            )
        if "error" in answer:
            raise ConfigError(f"sandbox: no program can be started here: {answer['error']}")
        if answer["lacking"]:
            raise ConfigError(
                f"sandbox: require={', '.join(answer['lacking'])} cannot be contained on this"
                " machine; plm.sandbox.contained() tells what can, and docs/sandbox.md why"
            )
        found = answer["outcome"]
        for name in ("stdout", "stderr"):
            found[name] = found[name].encode("latin-1").decode("utf-8", "replace")
        return Outcome(**found), answer["held"]

    def close(self) -> None:
        """End the supervisor, and what it runs."""
        self.channel.close()
        self.log.close()
        try:
            self.process.wait(10)
        except subprocess.TimeoutExpired:
            self.process.kill()
            self.process.wait()
        shutil.rmtree(self.folder, ignore_errors=True)


_idle: list[Supervisor] = []
_lock = threading.Lock()


def _close_idle() -> None:
    while _idle:
        _idle.pop().close()


def _forget() -> None:
    """In a fork of this process: the supervisors belong to the parent."""
    global _lock
    _lock = threading.Lock()
    for supervisor in _idle:
        supervisor.channel.close()
        # What Popen's finalizer asks: it would complain of a running child that is not ours.
        supervisor.process.returncode = 0
    _idle.clear()


atexit.register(_close_idle)
if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_forget)


def _run(
    program: str, limits: Limits, stdin: str, require: Sequence[str]
) -> tuple[Outcome, list[str]]:
    with _lock:
        supervisor = _idle.pop() if _idle else None
    supervisor = supervisor or Supervisor()
    try:
        found = supervisor.run(program, limits, stdin, require)
    except BaseException:
        supervisor.close()
        raise
    with _lock:
        _idle.append(supervisor)
    return found


def _check(require: Sequence[str]) -> None:
    if not hasattr(os, "fork"):
        raise ConfigError(f"sandbox: {sys.platform} has no fork; use Linux or macOS (or WSL)")
    known = containment.guards(())
    for name in require:
        if name not in known:
            raise ConfigError(f"sandbox: require={name!r} is not one of {', '.join(known)}")


def run(
    program: str,
    *,
    limits: Limits = Limits(),  # noqa: B008
    stdin: str = "",
    require: Sequence[str] = (),
) -> Outcome:
    """Run Python source in a process of its own, held to `limits`.

    It sees Python's standard library, an empty folder as its working folder, and nothing of this
    process. What is contained by what on this machine says `contained`; docs/sandbox.md says more.

    Args:
        program: source text; it runs as `__main__`.
        limits: see `Limits`.
        stdin: all that it can read there.
        require: keys of `contained` without which it shall not run.
    Raises:
        ConfigError: something required is not contained here, or there is no sandbox here at all.
    """
    _check(require)
    return _run(program, limits, stdin, require)[0]


def run_many(
    programs: Sequence[str],
    *,
    limits: Limits = Limits(),  # noqa: B008
    workers: int | None = None,
    stdin: Sequence[str] | str = "",
    require: Sequence[str] = (),
) -> list[Outcome]:
    """Run programs side by side; their outcomes in order.

    Args:
        programs: source texts.
        limits: for each.
        workers: programs at a time; None: one for each processor that this process may use. With
            more of them wall time may end a program before its processor time does.
        stdin: for each of them, or one for all.
        require: as for `run`.
    Raises:
        ConfigError: as for `run`; or a number of workers or inputs that does not fit.
    """
    _check(require)
    usable = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()
    workers = (usable or 1) if workers is None else workers
    if workers < 1:
        raise ConfigError(f"sandbox: workers={workers} must be at least 1")
    inputs = [stdin] * len(programs) if isinstance(stdin, str) else list(stdin)
    if len(inputs) != len(programs):
        raise ConfigError(f"sandbox: {len(inputs)} inputs for {len(programs)} programs")
    with ThreadPoolExecutor(workers) as pool:
        jobs = [
            pool.submit(run, program, limits=limits, stdin=text, require=require)
            for program, text in zip(programs, inputs, strict=True)
        ]
        return [job.result() for job in jobs]


def contained() -> dict[str, bool | str]:
    """What is contained on this machine and by what, from a program that was run; False: is not."""
    _check(())
    return containment.guards(_run("", Limits(), "", ())[1])
