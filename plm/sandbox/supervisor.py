"""The process that starts programs one after another, watches each, and stays outside itself.

It is a small Python without site packages and with an empty environment, so that what a program is
forked from holds nothing worth reading, and forking it is cheap. It ends when its client does.
"""

import contextlib
import gc
import os
import select
import signal
import socket
import sys
import time
from typing import Any

from plm.sandbox import containment, kernel, start, watch
from plm.sandbox.limits import STRETCH
from plm.sandbox.messages import receive, send

# Between two looks at what a program uses. Within it, its own limits (rlimits) hold each process.
LOOK_S = 0.02
SETUP_S = 20.0
# The best first. Containers often forbid mounts, and some systems user namespaces.
PLANS = (("mount", "pids", "net"), ("pids", "net"), ())


def _unnamed_file(folder: str, content: bytes) -> int:
    """Descriptor of a file without a name, for reading only."""
    path = folder + "/stdin"
    with open(path, "xb") as file:
        file.write(content)
    descriptor = os.open(path, os.O_RDONLY)
    os.unlink(path)
    return descriptor


class Run:
    """One program, from its pipes to its outcome."""

    def __init__(
        self, request: dict[str, Any], namespaces: tuple[str, ...], channel: socket.socket
    ):
        self.limits = request["limits"]
        self.channel = channel
        self.most = self.limits["output_kib"] << 10
        self.texts: dict[int, bytearray] = {}
        self.sizes: dict[int, int] = {}
        self.control = b""
        self.reason = self.refusal = ""
        self.exit_code = -signal.SIGKILL
        self.keeper = 0
        self.cpu_s = 0.0
        self.held: list[str] = []
        self.namespaces = namespaces
        self.request = request

    def start(self, folder: str, off: frozenset[str]) -> bool:
        """Up to where the program waits for leave; False: `refusal` says what could not be."""
        pipes = [os.pipe() for _ in range(4)]
        (out, out_in), (err, err_in), (control, control_in), (go_out, go) = pipes
        given = _unnamed_file(folder, self.request["stdin"].encode("utf-8", "surrogatepass"))
        inner = (given, out_in, err_in, control_in, go_out)
        setting = start.Setting(self.limits, self.namespaces, off, folder, *inner)
        pid = os.fork()
        if pid == 0:
            # Detached: its finalizer would close whatever has its number by then.
            for descriptor in (out, err, control, go, self.channel.detach()):
                os.close(descriptor)
            start.open_up(setting, self.request["program"])
        for descriptor in inner:
            os.close(descriptor)
        self.out, self.err, self.control_end, self.go = out, err, control, go
        for descriptor in (out, err, control):
            os.set_blocking(descriptor, False)
        self.texts, self.sizes = {out: bytearray(), err: bytearray()}, {out: 0, err: 0}
        said = self._line()
        os.waitpid(pid, 0)
        if said[:1] == ["forked"]:
            self.keeper = int(said[1])
            os.write(go, b"k")
            said = self._line()
        self.held = [*said[1:], *["looks"] * watch.available()]
        if said[:1] != ["held"]:
            self.refusal = " ".join(said[1:]) or "its first process ended at once"
        return not self.refusal

    def _line(self, timeout_s: float = SETUP_S) -> list[str]:
        """The next words on the control pipe; [] where none come any more."""
        deadline = time.monotonic() + timeout_s
        while b"\n" not in self.control:
            left_s = max(0.0, deadline - time.monotonic())
            if not select.select([self.control_end], [], [], left_s)[0]:
                return []
            part = os.read(self.control_end, 4096)
            if not part:
                return []
            self.control += part
        line, _, self.control = self.control.partition(b"\n")
        return line.decode(errors="replace").split()

    def _read(self, descriptor: int) -> bool:
        """Take what a pipe holds, keeping no more than the limit; False at its end."""
        try:
            part = os.read(descriptor, 1 << 16)
        except BlockingIOError:
            return True
        kept = self.texts[descriptor]
        kept += part[: self.most - len(kept)]
        self.sizes[descriptor] += len(part)
        return bool(part)

    def _over(self) -> str:
        """The limit that is passed, if any; reads /proc."""
        used = watch.usage(self.keeper, self.limits["processes"], self.limits["memory_mib"])
        self.cpu_s = max(self.cpu_s, used.cpu_s)
        if used.tasks > self.limits["processes"]:
            return "processes"
        if used.memory_mib > self.limits["memory_mib"]:
            return "memory"
        return "cpu_time" if used.cpu_s >= self.limits["cpu_s"] else ""

    def watch(self) -> None:
        """Let it run until it ends, passes a limit, or the client goes."""
        os.write(self.go, b"p")
        begun = looked = time.monotonic()
        deadline = begun + self.limits["wall_s"]
        last = begun + STRETCH * self.limits["wall_s"]
        looks = watch.available()
        poll = select.poll()
        for descriptor in (self.out, self.err, self.control_end, self.channel.fileno()):
            poll.register(descriptor, select.POLLIN)
        while not self.reason:
            wait_s = min(deadline - time.monotonic(), LOOK_S if looks else 1.0)
            for descriptor, _ in poll.poll(max(0.0, wait_s) * 1000):
                if descriptor == self.channel.fileno():
                    self.reason = "gone"
                elif descriptor == self.control_end:
                    said = self._line(0.0)
                    self.exit_code = int(said[1]) if said[:1] == ["ended"] else self.exit_code
                    return self._finish(begun)
                elif not self._read(descriptor):
                    poll.unregister(descriptor)
                elif self.sizes[descriptor] > self.most:
                    self.reason = "output"
            # After what was there to read: what has ended in time is not late because this was.
            now = time.monotonic()
            if looks and not self.reason and now - looked >= LOOK_S:
                looked, self.reason = now, self._over()
            if not self.reason and now >= deadline:
                # A busy machine shall not turn a program that only waits for its turn into one
                # that hangs.
                deadline = min(last, begun + self.limits["wall_s"] + watch.waited())
                if now >= deadline:
                    self.reason = "wall_time"
        self._finish(begun)

    def _finish(self, begun: float) -> None:
        if self.reason:
            # A PID namespace that is killed forgets what its processes used.
            self._over()
            watch.end(self.keeper)
        self.cpu_s = max(self.cpu_s, watch.sweep(self.keeper))
        self.keeper = 0
        self.wall_s = time.monotonic() - begun
        for descriptor in (self.out, self.err):
            # What is left in the pipe; no more, as a writer may live on where nothing can end it.
            while self.sizes[descriptor] <= self.most and self._read(descriptor):
                if not select.select([descriptor], [], [], 0)[0]:
                    break

    def close(self) -> None:
        """End what may still be there; for a start that failed too."""
        for descriptor in (self.out, self.err, self.control_end, self.go):
            os.close(descriptor)
        if self.keeper:
            watch.end(self.keeper)
            watch.sweep(self.keeper)

    def status(self) -> str:
        """The limit that it met, or how it ended; of two limits the one that ended it."""
        if self.reason:
            return self.reason
        if max(self.sizes.values()) > self.most:
            return "output"
        if self.cpu_s >= self.limits["cpu_s"] or self.exit_code == -signal.SIGXCPU:
            return "cpu_time"
        if self.exit_code <= 0:
            return "killed" if self.exit_code else "ok"
        last = bytes(self.texts[self.err]).rstrip().rpartition(b"\n")[2]
        if last.startswith(b"MemoryError"):
            return "memory"
        refused = (b"BlockingIOError: [Errno 11] ", b"RuntimeError: can't start new thread")
        return "processes" if last.startswith(refused) else "failed"

    def outcome(self) -> dict[str, Any]:
        """What the client makes an `Outcome` of."""
        out, err = (bytes(self.texts[d]).decode("latin-1") for d in (self.out, self.err))
        return {
            "status": self.status(),
            "exit_code": self.exit_code,
            "stdout": out,
            "stderr": err,
            "cpu_s": round(self.cpu_s, 6),
            "wall_s": round(self.wall_s, 6),
        }


def clear(folder: str) -> None:
    """Empty a folder, whatever a program made of it: closed folders, links, any depth."""
    number = 0
    while entries := list(os.scandir(folder)):
        for entry in entries:
            if not entry.is_dir(follow_symlinks=False):
                os.unlink(entry.path)
                continue
            os.chmod(entry.path, 0o700)
            # Folders in it come up here first: depth costs no recursion and no long path.
            for inner in list(os.scandir(entry.path)):
                if inner.is_dir(follow_symlinks=False):
                    os.chmod(inner.path, 0o700)
                    number += 1
                    os.rename(inner.path, f"{folder}/{time.monotonic_ns()}-{number}")
                else:
                    os.unlink(inner.path)
            os.rmdir(entry.path)


class Supervisor:
    """Runs requests; remembers which namespaces this machine allows."""

    def __init__(self, channel: socket.socket, folder: str, off: frozenset[str]):
        self.channel, self.folder, self.off = channel, folder, off
        usable = kernel.LINUX and "namespaces" not in off
        self.plans = [
            tuple(name for name in plan if name not in off) for plan in (PLANS if usable else ((),))
        ]

    def attend(self, request: dict[str, Any]) -> dict[str, Any]:
        """One request to its answer; `start.Program` passes through in the program's process."""
        while True:
            run = Run(request, self.plans[0], self.channel)
            if run.start(self.folder, self.off):
                # What worked once is held to: no later program runs with less.
                del self.plans[1:]
                break
            run.close()
            if len(self.plans) == 1:
                return {"error": run.refusal}
            self.plans.pop(0)
        guards = containment.guards(run.held)
        lacking = [name for name in request["require"] if not guards.get(name)]
        answer: dict[str, Any] = {"held": run.held, "lacking": lacking}
        if not lacking:
            run.watch()
            answer["outcome"] = run.outcome()
        run.close()
        if "mount" not in run.held:
            clear(self.folder)
        return answer


def serve(folder: str, off: str) -> str | None:
    """Answer the client on descriptor 0 until it goes.

    Returns:
        The source, in a program's own process; None in the supervisor, at its end.
    """
    channel = socket.socket(fileno=os.dup(0))
    os.dup2(os.open(os.devnull, os.O_RDWR), 0)
    if kernel.LINUX:
        kernel.prctl(kernel.PR_SET_CHILD_SUBREAPER, 1)
    supervisor = Supervisor(channel, folder, frozenset(filter(None, off.split(","))))
    # A collection in a fork would write to, and so copy, each page that it inherited.
    gc.collect()
    gc.freeze()
    try:
        while (request := receive(channel)) is not None:
            send(channel, supervisor.attend(request))
    except start.Program as program:
        return program.args[0]
    except (BrokenPipeError, ConnectionResetError):
        pass
    with contextlib.suppress(OSError):
        clear(folder)
        os.rmdir(folder)
    return None


def main(folder: str, off: str) -> None:
    """The supervisor's and, in its children, the programs' way in."""
    source = serve(folder, off)
    if source is not None:
        sys.path.pop(0)
        start.run_source(source)
