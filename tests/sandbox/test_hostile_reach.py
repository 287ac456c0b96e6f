"""Programs that reach outside: files, network, other processes, the environment, the kernel.

Each of them does its harm without the sandbox (`outside`), which shows that the test can fail.
"""

import os
import resource
import socket
import sys
import threading
import time
from pathlib import Path

import pytest

from plm.sandbox import Limits, contained, run
from tests.sandbox.common import (
    FULL,
    NO_MOUNT,
    NO_NAMESPACES,
    NO_SECCOMP,
    NOTHING,
    ONLY_LANDLOCK,
    ONLY_NAMESPACES,
    ONLY_SECCOMP,
    inside,
    marked,
    outside,
    victim,
)

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="macOS has only some rlimits")
# What is tested here is what Linux can do; a machine that cannot must not look as if it could.
FILES = [FULL, NO_MOUNT, NO_NAMESPACES, NO_SECCOMP, ONLY_LANDLOCK, ONLY_NAMESPACES]


def write_program(*paths: object) -> str:
    return f"""
import os
for path in {list(map(str, paths))!r}:
    for flags in (os.O_WRONLY | os.O_CREAT, os.O_RDWR, os.O_WRONLY | os.O_TRUNC):
        try: os.write(os.open(path, flags, 0o666), b"harm"); print("wrote", path)
        except OSError: pass
    for change in (os.unlink, os.mkdir, lambda p: os.rename("own", p), os.rmdir,
                   lambda p: os.chmod(p, 0), lambda p: os.utime(p, (0, 0)),
                   lambda p: os.truncate(p, 0), lambda p: os.link("own", p)):
        open("own", "w").close()
        try: change(path); print("changed", path)
        except OSError: pass
"""


@pytest.mark.parametrize("off", FILES)
def test_no_file_outside_is_written(off, tmp_path):
    kept = tmp_path / "kept"
    kept.write_text("safe")
    os.chmod(kept, 0o666)
    os.chmod(tmp_path, 0o777)
    before = kept.stat()
    inside(write_program(kept, tmp_path / "new"), off)
    after = kept.stat()
    os.chmod(kept, 0o666)
    assert kept.read_text() == "safe" and os.listdir(tmp_path) == ["kept"]
    if off not in (NO_SECCOMP, ONLY_LANDLOCK):
        # Landlock does not cover modes and times; a mount namespace or seccomp does.
        assert (after.st_mode, after.st_mtime_ns) == (before.st_mode, before.st_mtime_ns)
    assert "wrote" in outside(write_program(kept, tmp_path / "new"), cwd=tmp_path)
    assert not kept.exists() or kept.read_text() != "safe"


PLACES = [
    "../escaped",
    "../../../../../../escaped",
    "/escaped",
    "/dev/escaped",
    "/usr/escaped",
    "/etc/escaped",
    "/var/tmp/escaped",
    str(Path.home() / "escaped"),
    str(Path(__file__).resolve().parents[2] / "escaped"),
    sys.base_prefix + "/escaped",
]


@pytest.mark.parametrize("off", [FULL, NO_NAMESPACES, ONLY_NAMESPACES])
def test_nothing_appears_in_the_usual_places(off):
    assert inside(write_program(*PLACES), off).stdout == ""
    assert not any(os.path.exists(place) for place in PLACES[2:])


def test_its_temporary_folder_is_its_own():
    program = "import tempfile, os\nprint(tempfile.mkdtemp()); open('/tmp/escaped', 'w').write('x')"
    outcome = run(program)
    assert outcome.status == "ok" and outcome.stdout.startswith("/tmp/")
    assert not os.path.exists("/tmp/escaped") and not os.path.exists(outcome.stdout.strip())
    assert run("import os; print(os.listdir('.'), os.listdir('/tmp'))").stdout == "[] []\n"


@pytest.mark.parametrize("off", FILES)
@pytest.mark.parametrize("link", ["symlink", "link"])
def test_links_do_not_lead_outside(off, link, tmp_path):
    kept = tmp_path / "kept"
    kept.write_text("safe")
    os.chmod(kept, 0o666)
    program = f"""
import os
for target in ({str(kept)!r}, {str(tmp_path)!r}):
    try:
        os.{link}(target, "door" + str(len(target)))
        path = "door" + str(len(target))
        path += "/kept" if os.path.isdir(path) else ""
        open(path, "a").write("harm")
    except OSError as error: pass
"""
    inside(program, off)
    assert kept.read_text() == "safe"
    (tmp_path / "cwd").mkdir()
    outside(program, cwd=tmp_path / "cwd")
    assert kept.read_text().startswith("safeharm")


@pytest.mark.parametrize("off", FILES)
def test_no_secret_file_is_read(off, tmp_path):
    secret = tmp_path / "key"
    secret.write_text("hunter2")
    os.chmod(secret, 0o644)
    program = f"print(open({str(secret)!r}).read())"
    outcome = inside(program, off)
    assert outcome.status == "failed" and "hunter2" not in outcome.stdout + outcome.stderr
    assert outside(program) == "hunter2\n"


READ_ENVIRONMENT = """
import os
print(dict(os.environ))
for pid in ["self", os.getppid(), {parent}, *range(1, 60)]:
    for name in ("environ", "cmdline", "maps"):
        try: print(open(f"/proc/{{pid}}/{{name}}", "rb").read())
        except OSError: pass
"""


@pytest.mark.parametrize("off", FILES)
def test_no_secret_of_the_environment_is_read(off, monkeypatch):
    monkeypatch.setenv("SECRET_OF_THE_PARENT", "hunter2")
    program = READ_ENVIRONMENT.format(parent=os.getpid())
    assert inside(program, off).stdout == "{}\n"
    assert "hunter2" in outside(program)


def test_its_supervisor_has_nothing_to_read_either(monkeypatch):
    # Without namespaces and Landlock its own /proc/self shows what the supervisor was given.
    monkeypatch.setenv("SECRET_OF_THE_PARENT", "hunter2")
    program = "print(open('/proc/self/environ', 'rb').read())"
    # An ordinary user's program is refused even that, as the keeper is closed to it.
    assert inside(program, ONLY_SECCOMP).stdout in ("b'PYTHONHASHSEED=0\\x00'\n", "")
    assert "hunter2" in outside(program)


@pytest.mark.parametrize("off", [FULL, ONLY_NAMESPACES])
def test_the_old_file_system_is_not_there(off):
    places = ["/proc", "/sys", "/etc/passwd", "/var", str(Path(__file__))]
    places += ["/.." + place for place in places]
    program = f"import os\nprint([p for p in {places!r} if os.path.exists(p)])"
    assert inside(program, off).stdout == "[]\n"
    assert str(Path(__file__)) in outside(program)


@pytest.fixture
def listener(tmp_path):
    """Sockets that a program could connect to, and what they got."""
    got, servers = [], []
    for family, address in (
        (socket.AF_INET, ("127.0.0.1", 0)),
        (socket.AF_UNIX, str(tmp_path / "socket")),
        (socket.AF_UNIX, f"\0{tmp_path}"),
    ):
        server = socket.socket(family)
        server.bind(address)
        server.listen()
        servers.append(server)

        def accept(server=server, family=family):
            while True:
                try:
                    connection = server.accept()[0]
                except OSError:
                    return
                got.append((family, connection.recv(9)))
                connection.close()

        threading.Thread(target=accept, daemon=True).start()
    os.chmod(tmp_path / "socket", 0o777)
    udp = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
    udp.bind(("127.0.0.1", 0))
    udp.setblocking(False)
    yield [s.getsockname() for s in servers], udp, got
    for server in servers:
        # Closing alone would leave it to the thread that waits on it.
        server.shutdown(socket.SHUT_RDWR)
        server.close()
    udp.close()


NETWORK = """
import socket
for address in {addresses!r}:
    family = socket.AF_INET if isinstance(address, tuple) else socket.AF_UNIX
    try:
        s = socket.socket(family); s.connect(address); s.send(b"harm"); print("connected", address)
    except OSError: pass
try:
    socket.socket(socket.AF_INET, socket.SOCK_DGRAM).sendto(b"harm", {udp!r})
except OSError: pass
try:
    a, b = socket.socketpair(socket.AF_UNIX, socket.SOCK_DGRAM)
    a.sendto(b"harm", {addresses!r}[1])
except OSError: pass
try: socket.getaddrinfo("example.com", 80); print("resolved")
except OSError: pass
"""


@pytest.mark.parametrize("off", [FULL, NO_MOUNT, NO_NAMESPACES, ONLY_SECCOMP, NO_SECCOMP])
def test_no_network(off, listener):
    addresses, udp, got = listener
    program = NETWORK.format(addresses=addresses, udp=udp.getsockname())
    assert inside(program, off).stdout == ""
    assert got == []
    with pytest.raises(BlockingIOError):
        udp.recv(9)
    assert outside(program).count("connected") == 3
    time.sleep(0.1)
    assert len(got) == 3 and udp.recv(9) == b"harm"


def test_socket_pairs_are_left_for_asyncio():
    program = (
        "import asyncio\nasync def f():\n    await asyncio.sleep(0.001); return 7\n"
        "print(asyncio.run(f()))"
    )
    assert run(program).stdout == "7\n"


KILL = """
import ctypes, fcntl, os, resource, signal
def attempt(f, *a):
    try: f(*a)
    except (OSError, ProcessLookupError, ValueError): pass
target = {target}
signal.signal(signal.SIGTERM, signal.SIG_IGN)
attempt(resource.prlimit, target, resource.RLIMIT_CPU, (0, 0))
r, w = os.pipe()
attempt(fcntl.fcntl, r, 8, target)
attempt(fcntl.fcntl, r, 10, 9)
attempt(fcntl.fcntl, r, fcntl.F_SETFL, os.O_ASYNC)
os.write(w, b"x")
attempt(lambda: signal.pidfd_send_signal(os.pidfd_open(target), 9))
attempt(os.kill, target, 9)
attempt(os.killpg, target, 9)
"""


@pytest.mark.parametrize(
    "off", [FULL, NO_MOUNT, NO_NAMESPACES, NO_SECCOMP, ONLY_SECCOMP, ONLY_LANDLOCK]
)
def test_no_other_process_is_killed(off):
    with victim() as process:
        program = KILL.format(target=process.pid)
        inside(program, off)
        time.sleep(0.05)
        assert process.poll() is None
        if off != ONLY_LANDLOCK:
            assert resource.prlimit(process.pid, resource.RLIMIT_CPU)[1] != 0
        outside(program)
        assert process.wait(10) != 0


@pytest.mark.parametrize("off", [FULL, NO_NAMESPACES, ONLY_SECCOMP])
def test_its_supervisor_is_not_killed(off):
    program = (
        "import os\nfor pid in (os.getppid(), 1, -1):\n"
        "    try: os.kill(pid, 9)\n    except OSError: pass\nprint('alive')"
    )
    outcome = inside(program, off)
    assert outcome.status == "ok" and outcome.stdout == "alive\n"


TRACE = """
import ctypes
libc = ctypes.CDLL(None, use_errno=True)
print(libc.ptrace(16, {target}, 0, 0) >= 0)
buffer = ctypes.create_string_buffer(8)
"""


@pytest.mark.parametrize("off", [FULL, NO_NAMESPACES, NO_SECCOMP, ONLY_SECCOMP, ONLY_LANDLOCK])
def test_no_other_process_is_traced(off):
    with victim() as process:
        program = TRACE.format(target=process.pid)
        assert inside(program, off).stdout == "False\n"
        scope = Path("/proc/sys/kernel/yama/ptrace_scope")
        if not scope.exists() or scope.read_text().strip() == "0":
            assert outside(program) == "True\n"


def test_the_waiting_process_in_its_namespace_is_not_traced():
    assert inside(TRACE.format(target="__import__('os').getppid()"), NO_SECCOMP).stdout == "False\n"


FORK_AWAY = """
import os, sys, time
if os.fork() == 0:
    try: os.setsid()
    except OSError: pass
    if os.fork() == 0:
        for descriptor in range(3): os.close(descriptor)
        code = "import time; time.sleep(60)"
        os.execv(sys.executable, [sys.executable, "-S", "-c", code, {mark!r}])
    os._exit(0)
os.wait()
time.sleep(0.2)
"""


# Without a PID namespace and seccomp it can leave its group; then it is found by its parent.
@pytest.mark.parametrize(
    "off", [FULL, NO_MOUNT, NO_NAMESPACES, ONLY_SECCOMP, ONLY_LANDLOCK, NOTHING]
)
def test_no_process_is_left_behind(off):
    mark = f"plm-left-{os.getpid()}-{'-'.join(off)}"
    program = FORK_AWAY.format(mark=mark)
    outcome = inside(program, off)
    assert outcome.status == "ok" and outcome.wall_s < 30
    assert marked(mark) == []
    outside(program)
    left = marked(mark)
    for pid in left:
        os.kill(pid, 9)
    assert len(left) == 1


def test_a_child_that_outlives_the_program_holds_nobody_up():
    program = "import os, time\nif os.fork() == 0: time.sleep(60)\nprint('done')"
    outcome = run(program, limits=Limits(wall_s=30))
    assert outcome.status == "ok" and outcome.stdout == "done\n" and outcome.wall_s < 10


DESCRIPTORS = """
import os
for number in range(3, 1000):
    try: os.write(number, b"harm"); print("wrote to", number)
    except OSError: pass
try: os.write(0, b"harm"); print("wrote to 0")
except OSError: pass
for name in ("/proc/self/fd", "/dev/fd", "/dev/stdin"):
    try: print(os.listdir(name))
    except OSError: pass
"""


@pytest.mark.parametrize("off", [FULL, NO_NAMESPACES, NOTHING])
def test_no_descriptor_is_inherited(off, tmp_path):
    with open(tmp_path / "log", "wb") as file:
        program = DESCRIPTORS.split("for name")[0]
        os.set_inheritable(file.fileno(), True)
        assert inside(program, off, stdin="given").stdout == ""
        assert "wrote" in outside(program, pass_fds=[file.fileno()])
    if off != NOTHING:
        assert inside(DESCRIPTORS, off).stdout == ""


CALLS = """
import ctypes, os
libc = ctypes.CDLL(None, use_errno=True)
for name, number, *arguments in {calls!r}:
    if libc.syscall(number, *arguments) != -1: print(name, "was allowed")
    elif ctypes.get_errno() not in (1, 38): print(name, os.strerror(ctypes.get_errno()))
"""
# Harmless with these arguments even where they are allowed: they fail, but not with EPERM.
X86_CALLS = [
    ("unshare", 272, 0x10000000),
    ("mount", 165, 0, 0, 0, 0, 0),
    ("keyctl", 250, 0, -3, 0),
    ("bpf", 321, 99, 0, 0),
    ("io_uring_setup", 425, 0, 0),
    ("userfaultfd", 323, 0xFFFF),
    ("perf_event_open", 298, 0, 0, -1, -1, 0),
    ("memfd_create", 319, 0, 0xFFFF),
    ("shmget", 29, 0, 4096, 0o1600),
    ("clone3", 435, 0, 0),
    ("clone a namespace", 56, 0x10000000 | 17, 0, 0, 0, 0),
]


@pytest.mark.skipif(os.uname().machine != "x86_64", reason="numbers of x86_64")
@pytest.mark.parametrize("off", [FULL, ONLY_SECCOMP])
def test_system_calls_that_no_program_needs_are_refused(off):
    program = CALLS.format(calls=X86_CALLS)
    assert inside(program, off).stdout == ""
    assert inside(program, NO_SECCOMP).stdout.count("\n") > 3


def test_no_capability_is_left():
    program = """
wanted = ("CapInh", "CapPrm", "CapEff", "CapAmb", "NoNewP")
print(*[line.split()[1] for line in open("/proc/self/status") if line[:6] in wanted])
"""
    none = "0" * 16
    assert inside(program, NOTHING).stdout == f"{none} {none} {none} {none} 1\n"


def test_no_privilege_comes_back():
    program = """
import os
for change in (os.setuid, os.setgid, os.seteuid):
    try: change(0); print("became root")
    except OSError: pass
try: os.chroot("."); print("chroot")
except OSError: pass
try: os.mknod("device", 0o20666, os.makedev(1, 1)); print("device")
except OSError: pass
"""
    assert run(program).stdout == ""


def test_this_machine_is_held_to_what_is_said():
    """The tests above would mean less on a machine without these: they must not pass in silence."""
    found = contained()
    if "microsoft" in os.uname().release or not Path("/proc/self/ns/user").exists():
        pytest.skip("no user namespaces in this kernel")
    assert found["network"] and found["file_writes"] and found["leftovers"]
