"""Forks of a process that has imported what is slow to import; see the package's docstring."""

import atexit
import contextlib
import ctypes
import importlib
import json
import os
import runpy
import select
import signal
import socket
import sys
import threading
import traceback
from typing import NoReturn

# Only what is not ours.
PACKAGES = ("torch", "lightning.pytorch", "hydra", "transformers", "tokenizers", "datasets")


def serve(address: str) -> None:
    """Fork for whoever connects, until standard input ends."""
    for name in PACKAGES:
        importlib.import_module(name)
    assert threading.active_count() == 1, threading.enumerate()
    signal.signal(signal.SIGCHLD, signal.SIG_IGN)
    with socket.socket(socket.AF_UNIX) as server:
        server.bind(address)
        server.listen()
        print("ready", flush=True)
        while True:
            found, _, _ = select.select([server, sys.stdin], [], [])
            if sys.stdin in found:
                return
            asked, _ = server.accept()
            if os.fork() == 0:
                server.close()
                _watch(asked)
            asked.close()


def _watch(asked: socket.socket) -> NoReturn:
    """Fork the command; tell the client of its start and end; kill it when the client is gone."""
    signal.signal(signal.SIGCHLD, signal.SIG_DFL)
    _, given, _, _ = socket.recv_fds(asked, 1, 3)
    lines = asked.makefile("rw", encoding="utf-8")
    wanted = json.loads(lines.readline())
    pid = os.fork()
    if pid == 0:
        lines.close()
        asked.close()
        _become(wanted, given)
    for descriptor in given:
        os.close(descriptor)
    print(pid, file=lines, flush=True)
    # Readable once the process has ended.
    ended = os.pidfd_open(pid)
    found, _, _ = select.select([ended, asked], [], [])
    if ended not in found:
        os.killpg(pid, signal.SIGKILL)
    _, status = os.waitpid(pid, 0)
    with contextlib.suppress(OSError):
        print(status, file=lines, flush=True)
    os._exit(0)


def _become(wanted: dict, given: list[int]) -> NoReturn:
    """Run the command as the interpreter would, and end."""
    for number, descriptor in enumerate(given):
        os.dup2(descriptor, number)
        os.close(descriptor)
    # A client that is killed takes with it what its command has started.
    os.setsid()
    ctypes.CDLL(None).prctl(1, signal.SIGKILL)
    signal.signal(signal.SIGINT, signal.default_int_handler)
    sys.stdin, sys.stdout, sys.stderr = _open(0, "r"), _open(1, "w"), _open(2, "w")
    os.chdir(wanted["cwd"])
    os.environ.clear()
    os.environ.update(wanted["env"])
    # What it starts in its turn is forked, too.
    sys.executable = wanted["python"]
    sys.path[1:1] = [p for p in os.environ.get("PYTHONPATH", "").split(os.pathsep) if p]
    code = 0
    try:
        _run(wanted["argv"])
    except SystemExit as end:
        if isinstance(end.code, str):
            print(end.code, file=sys.stderr)
        code = end.code if isinstance(end.code, int) else int(end.code is not None)
    except BaseException as error:
        traceback.print_exc()
        code = 130 if isinstance(error, KeyboardInterrupt) else 1
    for thread in threading.enumerate():
        if thread is not threading.current_thread() and not thread.daemon:
            thread.join()
    atexit._run_exitfuncs()
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(code)


def _open(number: int, mode: str) -> object:
    lines = number == 2 or os.isatty(number)
    return open(number, mode, buffering=1 if lines else -1, closefd=False)


def _run(argv: list[str]) -> None:
    if argv[0] == "-c":
        sys.argv, sys.path[0] = ["-c", *argv[2:]], ""
        exec(compile(argv[1], "<string>", "exec"), {"__name__": "__main__"})
    elif argv[0] == "-m":
        sys.argv, sys.path[0] = argv[1:], os.getcwd()
        runpy.run_module(argv[1], run_name="__main__", alter_sys=True)
    else:
        sys.argv, sys.path[0] = argv, os.path.dirname(os.path.realpath(argv[0]))
        runpy.run_path(argv[0], run_name="__main__")


if __name__ == "__main__":
    serve(sys.argv[1])
