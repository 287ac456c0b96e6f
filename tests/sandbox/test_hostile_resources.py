"""Programs that want too much: time, memory, processes, files, output."""

import os
import subprocess
import sys

import pytest

from plm.sandbox import Limits, run
from tests.sandbox.common import NO_NAMESPACES, NOTHING, inside

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="macOS has only some rlimits")

# A slow machine may look late at what a program uses.
LATE_S = 1.5


def limits(**given) -> Limits:
    return Limits(**given)


def test_an_endless_loop_meets_its_processor_time():
    outcome = run("while True: pass", limits=limits(cpu_s=0.5, wall_s=60))
    assert outcome.status == "cpu_time"
    assert 0.5 <= outcome.cpu_s < 0.5 + LATE_S


def test_processor_time_of_all_processes_counts_together():
    program = "import os\nfor _ in range(3): os.fork()\nwhile True: pass"
    outcome = run(program, limits=limits(cpu_s=1, wall_s=60))
    assert outcome.status == "cpu_time"
    # Eight processes; each by itself would be let go on for one second.
    assert 1 <= outcome.cpu_s < 1 + LATE_S


def test_processor_time_without_a_look_at_it_is_held_by_its_own_limit():
    program = (
        "import resource, signal\nprint(resource.getrlimit(resource.RLIMIT_CPU), flush=True)\n"
        "signal.raise_signal(signal.SIGXCPU)"
    )
    outcome = run(program, limits=limits(cpu_s=1.5))
    assert outcome.stdout == "(3, 4)\n"
    assert outcome.status == "cpu_time" and outcome.exit_code == -24


def test_a_program_that_used_too_much_and_ended_first_did_not_pass():
    program = "import time\nwhile time.process_time() < 0.03: pass"
    assert run(program, limits=limits(cpu_s=0.02)).status == "cpu_time"
    assert run(program, limits=limits(cpu_s=5)).status == "ok"


def test_processor_time_decides_also_where_all_signals_are_ignored():
    program = (
        "import signal\nfor n in range(1, 65):\n"
        "    try: signal.signal(n, signal.SIG_IGN)\n    except (OSError, ValueError): pass\n"
        "while True: pass"
    )
    outcome = run(program, limits=limits(cpu_s=0.3, wall_s=60))
    assert outcome.status == "cpu_time" and outcome.cpu_s < 0.3 + LATE_S


def test_sleep_meets_the_wall():
    outcome = run("import time\ntime.sleep(1000)", limits=limits(wall_s=0.4))
    assert outcome.status == "wall_time"
    assert 0.4 <= outcome.wall_s < 0.4 + LATE_S and outcome.cpu_s < 0.4


BUSY = """
import time
while time.process_time() < 0.6: pass
print("done")
"""


@pytest.mark.skipif(not os.path.exists("/proc/self/schedstat"), reason="no schedstat here")
def test_the_wall_does_not_end_what_waits_for_its_turn():
    """Four busy neighbours on its one processor: it ends as it does alone, only later."""
    before = os.sched_getaffinity(0)
    os.sched_setaffinity(0, {min(before)})
    spin = [sys.executable, "-S", "-c", "while True: pass"]
    neighbours = [subprocess.Popen(spin, start_new_session=True) for _ in range(4)]
    try:
        outcome = inside(BUSY, cpu_s=5, wall_s=1)
        looping = inside("while True: pass", cpu_s=0.3, wall_s=0.4)
        sleeping = inside("import time\ntime.sleep(1000)", wall_s=0.4)
    finally:
        for one in neighbours:
            one.kill()
            one.wait()
        os.sched_setaffinity(0, before)
    assert outcome.status == "ok" and outcome.stdout == "done\n" and outcome.wall_s > 1
    assert looping.status == "cpu_time"
    assert sleeping.status == "wall_time"


@pytest.mark.parametrize("read", ["sys.stdin.read()", "os.read(0, 1)", "list(sys.stdin)"])
def test_reading_stdin_never_waits(read):
    assert run(f"import os, sys\nassert not {read}").status == "ok"


@pytest.mark.parametrize(
    "grow",
    ["x = bytearray(1 << 30)", "x = []\nwhile True: x.append(bytearray(1 << 20))"],
)
def test_a_memory_bomb(grow):
    outcome = run(grow, limits=limits(memory_mib=128))
    assert outcome.status == "memory"
    assert outcome.stderr.endswith("MemoryError\n")


def test_memory_within_the_limit_is_given():
    program = "x = bytearray(1 << 27)\nimport resource\nprint(resource.getrlimit(9))"
    assert run(program, limits=limits(memory_mib=384)).stdout == f"({384 << 20}, {384 << 20})\n"


CHILDREN = """
import os, time
for _ in range(6):
    if os.fork() == 0:
        x = bytearray(b"x") * (40 << 20)
        time.sleep(seconds)
        os._exit(0)
for _ in range(6): os.wait()
"""


@pytest.mark.parametrize("off", [(), NO_NAMESPACES])
def test_a_memory_bomb_by_many_processes(off):
    outcome = inside("seconds = 60" + CHILDREN, off, memory_mib=128, wall_s=30)
    assert outcome.status == "memory"
    # Each of them has less than the limit.
    assert inside("seconds = 0.3" + CHILDREN, off, memory_mib=512, wall_s=30).status == "ok"


COUNT = """
import os, time
made = 1
try:
    while made < 40:
        if os.fork() == 0:
            time.sleep(30)
            os._exit(0)
        made += 1
except BlockingIOError:
    pass
print(made, flush=True)
os._exit(0)
"""


def test_a_fork_bomb():
    outcome = run("import os\nwhile True: os.fork()", limits=limits(processes=8, wall_s=60))
    assert outcome.status == "processes"
    assert outcome.cpu_s < 5 + LATE_S


def test_a_fork_bomb_that_does_not_give_up():
    program = "import os\nwhile True:\n    try: os.fork()\n    except OSError: pass"
    outcome = run(program, limits=limits(processes=8, cpu_s=0.7, wall_s=60))
    assert outcome.status == "cpu_time" and outcome.cpu_s < 0.7 + LATE_S


@pytest.mark.parametrize("most", [1, 5, 16])
def test_no_more_processes_than_the_limit(most):
    assert run(COUNT, limits=limits(processes=most)).stdout == f"{most}\n"


def test_programs_side_by_side_have_a_limit_each():
    from plm.sandbox import run_many

    outcomes = run_many([COUNT] * 4, limits=limits(processes=5), workers=4)
    assert [outcome.stdout for outcome in outcomes] == ["5\n"] * 4


def test_processes_are_counted_where_the_user_cannot_be_limited():
    # Root without a user of its own: RLIMIT_NPROC does not hold it, the look at all processes does.
    slow = COUNT.replace("made += 1", "made += 1; time.sleep(0.01)").replace("< 40", "< 400")
    outcome = inside(slow, NOTHING, processes=8, wall_s=30)
    assert outcome.status == "processes" or outcome.stdout == "8\n"


def test_a_thread_bomb():
    program = (
        "import threading, time\nwhile True:\n"
        "    threading.Thread(target=time.sleep, args=(60,), daemon=True).start()"
    )
    assert run(program, limits=limits(processes=8, wall_s=30)).status == "processes"


def test_threads_within_the_limit_run():
    program = (
        "import concurrent.futures as f\nwith f.ThreadPoolExecutor(4) as p:\n"
        "    print(sum(p.map(abs, range(9))))"
    )
    assert run(program).stdout == "36\n"


@pytest.mark.parametrize("stream", ["stdout", "stderr"])
def test_endless_output(stream):
    program = f"import sys\nwhile True: sys.{stream}.write('x' * 1000)"
    outcome = run(program, limits=limits(output_kib=8, wall_s=60))
    assert outcome.status == "output"
    assert getattr(outcome, stream) == "x" * 8192
    assert outcome.cpu_s < 5


def test_output_on_both_and_by_many_processes():
    program = (
        "import os\nfor _ in range(2): os.fork()\n"
        "while True: os.write(1, b'o' * 5000); os.write(2, b'e' * 5000)"
    )
    outcome = run(program, limits=limits(output_kib=64, wall_s=60))
    assert outcome.status == "output"
    assert len(outcome.stdout) <= 65536 and len(outcome.stderr) <= 65536


@pytest.mark.parametrize(("size", "status"), [(8192, "ok"), (8193, "output")])
def test_the_limit_of_output_is_exact(size, status):
    outcome = run(f"print('x' * {size}, end='')", limits=limits(output_kib=1 << 3))
    assert outcome.status == status and len(outcome.stdout) == 8192


def test_one_large_file():
    program = (
        "f = open('a', 'wb', 0)\nn = 0\ntry:\n    while True: n += f.write(bytes(1 << 16))\n"
        "except OSError as error: print(n >> 20, error.errno)"
    )
    # File too large where the file's own limit is met first, no space left where the folder's is.
    found = run(program, limits=limits(file_mib=2)).stdout
    assert found in ("2 27\n", "1 28\n", "2 28\n")
    assert run(program, limits=limits(file_mib=4)).stdout[:1] in "34"
    assert inside(program, NO_NAMESPACES, file_mib=2).stdout == "2 27\n"


def test_many_files_fill_no_disk():
    program = (
        "n = 0\ntry:\n    while True:\n        open(f'f{n}', 'wb').write(bytes(1 << 18)); n += 1\n"
        "except OSError as error: print(n, error.errno)"
    )
    files, error = run(program, limits=limits(file_mib=4)).stdout.split()
    assert 12 <= int(files) <= 16 and error == "28"


def test_many_empty_files_fill_no_table():
    program = (
        "n = 0\ntry:\n    while True: open(f'f{n}', 'w').close(); n += 1\n"
        "except OSError as error: print(n < 4100, error.errno)"
    )
    assert run(program).stdout == "True 28\n"


# What Python makes of a want of memory at this depth is up to it.
ENDS = {"memory", "killed", "failed"}


@pytest.mark.parametrize(
    ("program", "statuses"),
    [
        ("def f(): f()\nf()", {"failed"}),
        # Saying where it failed, a million calls deep, can take longer than the limit.
        ("import sys\nsys.setrecursionlimit(1 << 30)\ndef f(): f()\nf()", ENDS | {"cpu_time"}),
        ("exec('[' * 1000)", {"failed"}),
        ("class A:\n    def __repr__(self): return repr(self)\nprint(A())", {"failed"}),
    ],
)
def test_deep_recursion(program, statuses):
    outcome = run(program, limits=limits(memory_mib=64, wall_s=60))
    assert outcome.status in statuses


def test_limits_cannot_be_raised():
    program = """
import resource
for name in "CPU FSIZE AS NPROC NOFILE CORE".split():
    which = getattr(resource, "RLIMIT_" + name)
    soft, hard = resource.getrlimit(which)
    for wanted in ((hard, hard + 1), (-1, -1)):
        try: resource.setrlimit(which, wanted); print(name, "was raised")
        except (ValueError, OSError): pass
"""
    assert run(program).stdout == ""
    # The layers that are off here do not matter: it is the capability that is gone.
    assert inside(program, NOTHING).stdout == ""


def test_open_files_are_few():
    program = (
        "kept = []\ntry:\n    while True: kept.append(open('/dev/null'))\n"
        "except OSError as error: print(len(kept), error.errno)"
    )
    assert run(program).stdout == "61 24\n"
