"""Work shared between processes: order, errors, and what happens when one dies."""

import os
import signal
import subprocess
import sys
import time

import pytest

from plm.data.pool import ordered, pool, portions
from plm.errors import DataError


def square(values):
    time.sleep(0.02 * (values[0] % 3))
    return [value**2 for value in values]


def refuse(values):
    if 3 in values:
        raise DataError("row 3: no")
    return values


def die(values):
    os.kill(os.getpid(), signal.SIGKILL)


def test_portions():
    assert list(portions("aaaabbc", lambda c: 2 if c == "b" else 1, 3)) == [
        ["a", "a", "a"],
        ["a", "b"],
        ["b", "c"],
    ]


@pytest.mark.parametrize("workers", [1, 2])
def test_results_come_in_order(workers):
    work = [[i, i + 1] for i in range(12)]
    with pool(workers) as (executor, ahead):
        found = list(ordered(executor, ahead, square, work))
        assert found == [[a**2, b**2] for a, b in work]
        with pytest.raises(DataError, match="row 3: no"):
            list(ordered(executor, ahead, refuse, [[1], [3], [5]]))


def test_work_is_taken_as_it_is_needed():
    taken = []

    def endless():
        while True:
            taken.append(1)
            yield [1]

    with pool(1) as (executor, _):
        results = ordered(executor, 4, square, endless())
        assert [next(results) for _ in range(3)] == [[1]] * 3
    assert len(taken) <= 7


def test_a_killed_worker_is_one_line():
    with (
        pytest.raises(DataError, match="a process that prepares data ended suddenly"),
        pool(2) as (executor, ahead),
    ):
        list(ordered(executor, ahead, die, [[1], [2]]))


@pytest.mark.skipif(not os.path.isdir("/proc"), reason="looks for processes in /proc")
def test_workers_end_with_a_killed_parent(tmp_path):
    script = tmp_path / "parent.py"
    script.write_text(
        "import os, signal\n"
        "from plm.data.pool import pool\n"
        "if __name__ == '__main__':\n"
        "    with pool(2) as (executor, ahead):\n"
        "        print(*{executor.submit(os.getpid).result() for _ in range(20)}, flush=True)\n"
        "        os.kill(os.getpid(), signal.SIGKILL)\n"
    )
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)}
    done = subprocess.run(
        [sys.executable, str(script)], capture_output=True, text=True, env=environment, timeout=60
    )
    assert done.returncode == -signal.SIGKILL
    workers = [int(pid) for pid in done.stdout.split()]
    assert workers
    end = time.monotonic() + 10
    while any(alive(pid) for pid in workers) and time.monotonic() < end:
        time.sleep(0.05)
    assert not any(alive(pid) for pid in workers)


def alive(pid):
    try:
        with open(f"/proc/{pid}/stat") as file:
            return file.read().rpartition(")")[2].split()[0] != "Z"
    except FileNotFoundError:
        return False
