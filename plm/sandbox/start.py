"""From the supervisor to the program: three forks, each giving up more.

The opener makes the namespaces and ends. The keeper is the first process in them: it waits for the
program, says how it ended, and with its own end takes all that is left along. The program's process
gives up its user, capabilities, files and system calls and then runs the source.
"""

import contextlib
import linecache
import math
import os
import re
import resource
import signal
import site
import stat
import sys
import traceback
import types
from dataclasses import dataclass, field
from typing import Any

from plm.sandbox import kernel, landlock, seccomp, view

NOBODY = 65534
# Beyond what login, containers and services are given; one number for each program.
_FIRST_USER = 2_000_000_000
_OPEN_FILES = 64
NAME = "program.py"


class Program(BaseException):
    """Carries the source up to the top of the program's own process."""


@dataclass
class Setting:
    """What one program's processes share.

    Attributes:
        limits: by name.
        namespaces: which to make: mount, pids, net; none: empty.
        off: layers to leave out, by name.
        folder: an empty folder outside; mount point, or the working folder where there is no mount.
        stdin, stdout, stderr, control, go: file descriptors of the program's side.
        held: layers in force, by name.
        user: to become; None: stay.
        extra_tasks: of the same user, which RLIMIT_NPROC counts too.
        exact: whether RLIMIT_NPROC counts the program's tasks and `extra_tasks`, no others.
    """

    limits: dict[str, Any]
    namespaces: tuple[str, ...]
    off: frozenset[str]
    folder: str
    stdin: int
    stdout: int
    stderr: int
    control: int
    go: int
    held: set[str] = field(default_factory=set)
    user: int | None = None
    extra_tasks: int = 0
    exact: bool = False


def _say(setting: Setting, *words: object) -> None:
    os.write(setting.control, (" ".join(map(str, words)) + "\n").encode())


def _mapped(user: int) -> bool:
    """Whether this user namespace knows the number."""
    with open("/proc/self/uid_map") as file:
        ranges = [list(map(int, line.split())) for line in file]
    return any(first <= user < first + count for first, _, count in ranges)


def _open_to_others(path: str) -> bool:
    while path != "/":
        if not os.stat(path).st_mode & stat.S_IXOTH:
            return False
        path = os.path.dirname(path)
    return True


def _choose_user(setting: Setting) -> int | None:
    """A user for the program where this process is root; None: it stays what it is."""
    if os.geteuid() != 0 or "uid" in setting.off or "user" in setting.held or not kernel.LINUX:
        return None
    with contextlib.suppress(OSError), open("/proc/self/setgroups") as file:
        if file.read().strip() == "deny":
            return None
    # Without a view of its own the program must reach Python through the folders above it.
    prefixes = (sys.base_prefix, sys.base_exec_prefix)
    if "mount" not in setting.namespaces and not all(map(_open_to_others, prefixes)):
        return None
    numbers = (_FIRST_USER + os.getpid(), NOBODY)
    return next((user for user in numbers if _mapped(user)), None)


def _tasks(user: int) -> int:
    """Processes and threads of a user."""
    count = 0
    for name in os.listdir("/proc"):
        with contextlib.suppress(OSError):
            if name.isdigit() and os.stat(f"/proc/{name}").st_uid == user:
                count += len(os.listdir(f"/proc/{name}/task"))
    return count


def _make_namespaces(setting: Setting) -> None:
    flags = kernel.CLONE_NEWIPC | kernel.CLONE_NEWUTS
    for name, flag in (
        ("mount", kernel.CLONE_NEWNS),
        ("pids", kernel.CLONE_NEWPID),
        ("net", kernel.CLONE_NEWNET),
    ):
        flags |= flag if name in setting.namespaces else 0
    user, group = os.geteuid(), os.getegid()
    try:
        kernel.unshare(flags)
    except PermissionError:
        kernel.unshare(flags | kernel.CLONE_NEWUSER)
        for name, text in (
            ("setgroups", "deny"),
            ("uid_map", f"{user} {user} 1"),
            ("gid_map", f"{group} {group} 1"),
        ):
            with open(f"/proc/self/{name}", "w") as file:
                file.write(text)
        setting.held.add("user")
    setting.held.update(setting.namespaces)


def open_up(setting: Setting, source: str) -> None:
    """The opener; does not return in it, and raises `Program` in the program's process."""
    try:
        if kernel.LINUX:
            with contextlib.suppress(OSError), open("/proc/self/oom_score_adj", "w") as file:
                file.write("1000")
            if setting.namespaces:
                _make_namespaces(setting)
            setting.user = _choose_user(setting)
            counted = os.getuid() if setting.user is None else setting.user
            setting.exact = counted >= _FIRST_USER
            if not setting.exact:
                # The keeper is of the same user.
                setting.exact = _counts_own(setting) and counted != 0
                setting.extra_tasks = 1 if setting.exact else _tasks(counted)
        if "mount" in setting.namespaces:
            view.build(setting.folder, setting.limits["file_mib"], setting.user)
        else:
            os.mkdir(setting.folder + "/program", 0o700)
            os.chdir(setting.folder + "/program")
            if setting.user is not None:
                os.chmod(setting.folder, 0o711)
                os.chown(".", setting.user, setting.user)
        pid = os.fork()
    except BaseException as error:
        _say(setting, "refused", type(error).__name__, error)
        os._exit(1)
    if pid:
        _say(setting, "forked", pid)
        os._exit(0)
    try:
        _keep(setting)
    except OSError as error:
        _say(setting, "refused", error)
        os._exit(1)
    raise Program(source)


def _counts_own(setting: Setting) -> bool:
    release = re.match(r"(\d+)\.(\d+)", os.uname().release)
    since = release is not None and tuple(map(int, release.groups())) >= (5, 14)
    return since and "user" in setting.held


def _keep(setting: Setting) -> None:
    """The keeper; returns in the program's process, which is ready but for the source."""
    os.setsid()
    # The supervisor says that the opener is gone: a death signal set before would be for its end.
    if not os.read(setting.go, 1):
        os._exit(1)
    if kernel.LINUX:
        kernel.prctl(kernel.PR_SET_PDEATHSIG, signal.SIGKILL)
        kernel.prctl(kernel.PR_SET_DUMPABLE, 0)
    pid = os.fork()
    if not pid:
        _give_up(setting)
        _say(setting, "held", *sorted(setting.held))
        if not os.read(setting.go, 1):
            os._exit(1)
        for target, descriptor in enumerate((setting.stdin, setting.stdout, setting.stderr)):
            os.dup2(descriptor, target)
        os.closerange(3, 1 << 16)
        # Last, as the supervisor's own descriptors may have been more.
        _limit(resource.RLIMIT_NOFILE, _OPEN_FILES)
        return
    for descriptor in (setting.stdin, setting.stdout, setting.stderr, setting.go):
        os.close(descriptor)
    while True:
        ended, status = os.wait()
        if ended == pid:
            _say(setting, "ended", os.waitstatus_to_exitcode(status))
            os._exit(0)


def _limit(what: int, soft: int, hard: int | None = None) -> None:
    hard = soft if hard is None else hard
    present = resource.getrlimit(what)[1]
    if present != resource.RLIM_INFINITY:
        soft, hard = min(soft, present), min(hard, present)
    resource.setrlimit(what, (soft, hard))


def _set_limits(setting: Setting) -> None:
    limits = setting.limits
    # Whole seconds, and by the clock's ticks: the watchdog, which measures, should come first.
    seconds = math.ceil(limits["cpu_s"]) + 1
    _limit(resource.RLIMIT_CPU, seconds, seconds + 1)
    _limit(resource.RLIMIT_FSIZE, limits["file_mib"] << 20)
    _limit(resource.RLIMIT_CORE, 0)
    # macOS refuses an address space smaller than what is mapped already.
    with contextlib.suppress(ValueError, OSError):
        _limit(resource.RLIMIT_AS, limits["memory_mib"] << 20)
    _limit(resource.RLIMIT_NPROC, limits["processes"] + setting.extra_tasks)
    # It never holds the machine's root, and where it counts a user's other tasks it is a guess.
    if setting.exact:
        setting.held.add("nproc")
    for name in ("RLIMIT_MSGQUEUE", "RLIMIT_MEMLOCK", "RLIMIT_RTPRIO"):
        if kernel.LINUX and hasattr(resource, name):
            _limit(getattr(resource, name), 0)


def _give_up(setting: Setting) -> None:
    """Limits first, system calls last: each step needs what the next takes away."""
    _set_limits(setting)
    if not kernel.LINUX:
        return
    if setting.user is not None:
        os.setgroups([])
        os.setresgid(setting.user, setting.user, setting.user)
        os.setresuid(setting.user, setting.user, setting.user)
        setting.held.add("uid")
    if "pids" not in setting.held:
        # No namespace ends it with the keeper. After the change of user, which forgets this.
        kernel.prctl(kernel.PR_SET_PDEATHSIG, signal.SIGKILL)
    kernel.prctl(kernel.PR_SET_NO_NEW_PRIVS, 1)
    with contextlib.suppress(OSError):
        kernel.drop_capabilities()
        setting.held.add("capabilities")
    if "landlock" not in setting.off:
        with contextlib.suppress(OSError):
            writable = [".", "/dev/shm"] if "mount" in setting.held else ["."]
            version = landlock.restrict(view.readable(), view.DEVICES, writable)
            setting.held.add(f"landlock{version}")
    if "seccomp" not in setting.off:
        with contextlib.suppress(OSError):
            own_pids, own_files = "pids" in setting.held, "mount" in setting.held
            seccomp.install(os.getpid(), own_pids=own_pids, own_files=own_files)
            setting.held.add("seccomp")


def _excepthook(kind: type[BaseException], value: BaseException, trace: Any) -> None:
    while trace is not None and trace.tb_frame.f_code.co_filename != NAME:
        trace = trace.tb_next
    traceback.print_exception(kind, value, trace)


def _standard(descriptor: int, mode: str, errors: str) -> Any:
    """As Python opens them; the supervisor's own belong to what it had there."""
    lines = 1 if descriptor == 2 else -1
    return open(descriptor, mode, lines, encoding="utf-8", errors=errors, closefd=False)


def run_source(source: str) -> None:
    """Run the program as `__main__`; called at the top, so that Python itself ends the process."""
    for own in [m for m in sys.modules if m.partition(".")[0] == "plm"]:
        del sys.modules[own]
    os.environ.clear()
    main = types.ModuleType("__main__")
    main.__file__ = NAME
    sys.modules["__main__"], sys.argv = main, [NAME]
    sys.stdin = sys.__stdin__ = _standard(0, "r", "surrogateescape")
    sys.stdout = sys.__stdout__ = _standard(1, "w", "surrogateescape")
    sys.stderr = sys.__stderr__ = _standard(2, "w", "backslashreplace")
    sys.excepthook = _excepthook
    site.setquit()
    site.sethelper()
    # For the traceback's source lines: there is no file.
    linecache.cache[NAME] = (len(source), None, source.splitlines(True), NAME)
    exec(compile(source, NAME, "exec", dont_inherit=True), main.__dict__)
