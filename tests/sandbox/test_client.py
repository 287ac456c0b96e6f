"""`run`, `run_many`, `contained` and `require`, with programs that mean no harm."""

import ast
import os
import signal
import subprocess
import sys
import tempfile
import threading
import time
from pathlib import Path

import pytest

from plm.errors import ConfigError
from plm.sandbox import Limits, client, contained, containment, run, run_many
from plm.sandbox.client import Supervisor
from tests.sandbox.common import NO_NAMESPACES, NOTHING, inside, marked, outside

linux = pytest.mark.skipif(sys.platform != "linux", reason="Linux has these layers")


@pytest.mark.parametrize(
    ("program", "status", "code"),
    [
        ("", "ok", 0),
        ("1 / 0", "failed", 1),
        ("exit()", "ok", 0),
        ("exit(3)", "failed", 3),
        ("import sys; sys.exit('why')", "failed", 1),
        ("import os; os._exit(0)", "ok", 0),
        ("import os; os._exit(255)", "failed", 255),
        ("import os; os.abort()", "killed", -6),
        ("import os; os.kill(os.getpid(), 15)", "killed", -15),
        ("import ctypes; ctypes.string_at(0)", "killed", -11),
        ("raise KeyboardInterrupt", "killed", -2),
        ("import os; os.close(0); os.close(1); os.close(2)", "ok", 0),
        ("x =", "failed", 1),
        ("\0", "failed", 1),
        ("x = '\ud800'", "failed", 1),
        ("raise MemoryError", "memory", 1),
        ("assert False", "failed", 1),
    ],
)
def test_how_a_program_ends(program, status, code):
    outcome = run(program)
    assert (outcome.status, outcome.exit_code) == (status, code)
    assert outcome.wall_s > 0 and outcome.cpu_s < 5


def test_output_input_and_traceback():
    outcome = run("import sys\nprint(sys.stdin.read())\ndef f(): 1 / 0\nf()", stdin="é\n" * 2)
    assert outcome.stdout == "é\né\n\n"
    lines = outcome.stderr.splitlines()
    assert lines[1:3] == ['  File "program.py", line 4, in <module>', "    f()"]
    assert lines[-1] == "ZeroDivisionError: division by zero"
    assert run("import os; os.write(1, b'\\xff')").stdout == "�"


def test_a_long_input_is_read_whole():
    assert run("import sys; print(len(sys.stdin.read()))", stdin="x" * 3_000_000).stdout == (
        "3000000\n"
    )


def test_it_is_the_main_program_of_a_usual_python():
    program = """
import atexit, sys, threading, __main__
assert __name__ == "__main__" and __main__.program_name == sys.argv == ["program.py"]
assert not any(name.startswith("plm") for name in sys.modules)
assert not any("site-packages" in path for path in sys.path)
class Last:
    def __del__(self): print("deleted")
last = Last()
atexit.register(print, "at exit")
threading.Thread(target=lambda: print("thread")).start()
""".replace("import atexit", "program_name = ['program.py']\nimport atexit")
    assert run(program).stdout == "thread\nat exit\ndeleted\n"


@pytest.mark.parametrize(
    "program",
    [
        "import subprocess as s, sys; print(s.check_output([sys.executable, '-c', 'print(7)']))",
        "import subprocess; print(subprocess.check_output(['echo', '7'], env={'PATH': '/bin'}))",
        "import multiprocessing as m\nwith m.Pool(2) as p: print(p.map(abs, [-7]))",
        "import decimal, sqlite3, hashlib, zoneinfo; print(zoneinfo.ZoneInfo('UTC'), 7)",
        "open('a', 'w').write('7'); print(open('a').read())",
        "import tempfile\nwith tempfile.TemporaryFile() as f: f.write(b'7'); print(7)",
    ],
)
def test_the_standard_library_works(program):
    outcome = run(program, limits=Limits(wall_s=60))
    assert outcome.status == "ok", outcome.stderr
    assert "7" in outcome.stdout


def test_the_order_of_a_set_does_not_change():
    program = "print({'one', 'two', 'three', 'four', 'five', 'six'})"
    first, second = (inside(program).stdout for _ in range(2))
    assert first == second and len(ast.literal_eval(first)) == 6
    # Without the sandbox it does.
    assert len({outside(program) for _ in range(6)}) > 1


def test_a_program_leaves_nothing_to_the_next():
    assert run("import os, builtins, sys; open('a', 'w'); builtins.x = sys.x = 1").status == "ok"
    program = "import os, builtins, sys; print(os.listdir('.'), hasattr(builtins, 'x') or sys.x)"
    assert "AttributeError" in run(program).stderr


def test_many_keep_their_order():
    programs = [f"import time; time.sleep({0.2 if n == 0 else 0}); print({n})" for n in range(9)]
    assert [o.stdout for o in run_many(programs, workers=3)] == [f"{n}\n" for n in range(9)]
    inputs = ["a", "b"]
    assert [o.stdout for o in run_many(["print(input())"] * 2, stdin=inputs)] == ["a\n", "b\n"]
    assert run_many([]) == []


def test_many_run_side_by_side():
    begun = time.monotonic()
    outcomes = run_many(["import time; time.sleep(1)"] * 4, workers=4)
    assert [o.status for o in outcomes] == ["ok"] * 4
    assert time.monotonic() - begun < 3.5


@pytest.mark.parametrize(
    ("settings", "text"),
    [
        ({"workers": 0}, "workers=0 must be at least 1"),
        ({"stdin": ["a"]}, "1 inputs for 2 programs"),
        ({"require": ["networks"]}, "require='networks' is not one of environment, "),
    ],
)
def test_settings_that_cannot_work(settings, text):
    with pytest.raises(ConfigError, match=text):
        run_many(["", ""], **settings)


@linux
def test_what_is_required_and_not_contained_stops_the_program(tmp_path):
    supervisor = Supervisor(NOTHING)
    program = f"open({str(tmp_path / 'ran')!r}, 'w')"
    try:
        with pytest.raises(ConfigError, match="require=network, disk cannot be contained"):
            supervisor.run(program, Limits(), require=["network", "wall_time", "disk"])
        assert not (tmp_path / "ran").exists()
        # The same supervisor, without the demand: the program does run.
        supervisor.run(program, Limits())
        assert (tmp_path / "ran").exists()
    finally:
        supervisor.close()


@linux
def test_what_is_contained_is_told_by_the_layers_in_force():
    found = contained()
    assert set(found) == set(containment.guards(()))
    for off, name in ((("seccomp",), "kernel_interfaces"), (("mount",), "disk")):
        supervisor = Supervisor(off)
        held = supervisor.run("", Limits())[1]
        supervisor.close()
        assert containment.guards(held)[name] is False
    bare = containment.guards(())
    assert not any(bare[n] for n in ("network", "file_writes", "file_reads", "leftovers", "disk"))
    assert run("", require=[name for name, by in found.items() if by]).status == "ok"


@linux
def test_a_landlock_too_old_is_not_called_containment():
    assert not containment.guards(["landlock2", "seccomp"])["file_writes"]
    assert not containment.guards(["landlock7"])["file_writes"]
    assert containment.guards(["landlock3", "seccomp"])["file_writes"] == "Landlock"


@linux
def test_a_supervisor_that_dies_is_told():
    supervisor = Supervisor()
    assert supervisor.run("", Limits())[0].status == "ok"
    supervisor.process.kill()
    with pytest.raises(ConfigError, match="supervisor ended with exit code -9"):
        supervisor.run("", Limits())
    supervisor.close()


SLEEPER = """
import os, sys
os.execv(sys.executable, [sys.executable, "-S", "-c", "import time; time.sleep(60)", {mark!r}])
"""


def until(wanted) -> bool:
    """Whether it comes true within a while."""
    deadline = time.monotonic() + 20
    while not wanted() and time.monotonic() < deadline:
        time.sleep(0.02)
    return wanted()


@linux
@pytest.mark.parametrize("off", [(), NO_NAMESPACES])
def test_with_its_supervisor_a_program_ends_too(off):
    mark = f"plm-supervisor-{os.getpid()}-{len(off)}"
    supervisor, failed = Supervisor(off), []

    def ask():
        try:
            supervisor.run(SLEEPER.format(mark=mark), Limits(wall_s=60))
        except ConfigError as error:
            failed.append(error)

    asking = threading.Thread(target=ask)
    asking.start()
    assert until(lambda: len(marked(mark)) == 1)
    supervisor.process.kill()
    assert until(lambda: marked(mark) == [])
    asking.join()
    assert "exit code -9" in str(failed[0])
    supervisor.close()
    assert not os.path.exists(supervisor.folder)


@linux
@pytest.mark.parametrize("off", [(), NO_NAMESPACES])
def test_with_its_client_a_program_ends_too(off):
    mark = f"plm-client-{os.getpid()}-{len(off)}"
    program = SLEEPER.format(mark=mark)
    code = (
        "import sys\nfrom plm.sandbox import Limits\nfrom plm.sandbox.client import Supervisor\n"
        f"s = Supervisor({off!r}); print(s.folder, flush=True)\n"
        f"s.run(sys.stdin.read(), Limits(wall_s=60))"
    )
    asking = subprocess.Popen(
        [sys.executable, "-c", code],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
        cwd=Path(__file__).parents[2],
    )
    asking.stdin.write(program)
    asking.stdin.close()
    folder = asking.stdout.readline().strip()

    # The client itself got the mark by its stdin, so that it is on one command line only.
    assert until(lambda: len(marked(mark)) == 1)
    os.kill(asking.pid, signal.SIGKILL)
    asking.wait()
    asking.stdout.close()
    assert until(lambda: marked(mark) == [])
    assert until(lambda: not os.path.exists(folder))


def test_a_fork_of_the_client_gets_supervisors_of_its_own():
    run("")
    assert client._idle
    pid = os.fork()
    if pid == 0:
        good = not client._idle and run("print(1)").stdout == "1\n"
        client._close_idle()
        os._exit(0 if good else 1)
    assert os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) == 0
    assert run("print(2)").stdout == "2\n"


@linux
def test_nothing_is_left_on_the_disk(tmp_path, monkeypatch):
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    program = """
import os
for n in range(1050):
    os.mkdir("d"); os.chdir("d")
open("deep", "w")
os.mkdir("closed"); open("closed/a", "w")
"""
    # The layer that would refuse chmod is off, so that a closed folder can be made.
    closing = program + "os.chmod('closed', 0)\nprint('made')"
    supervisor = Supervisor(("namespaces", "seccomp"))
    outcome = supervisor.run(closing, Limits(wall_s=60))[0]
    assert outcome.stdout == "made\n"
    assert list(Path(supervisor.folder).iterdir()) == []
    supervisor.close()
    assert list(tmp_path.iterdir()) == []


@linux
def test_importing_it_is_light():
    code = (
        "import sys; import plm.sandbox; "
        "print(sorted({'torch', 'numpy', 'transformers'} & set(sys.modules)))"
    )
    done = subprocess.run(
        [sys.executable, "-c", code],
        capture_output=True,
        text=True,
        check=True,
        cwd=Path(__file__).parents[2],
    )
    assert done.stdout == "[]\n"
