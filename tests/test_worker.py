"""How a rank ends."""

import subprocess
import sys
from pathlib import Path

import pytest

from plm import worker
from plm.run import RunFolder
from plm.stages import runner

ROOT = Path(__file__).parents[1]
CODE = """
import atexit, logging, sys, threading, time
from plm.worker import leave
atexit.register(lambda: print("finished"))
# One that would keep the interpreter from ending.
threading.Thread(target=time.sleep, args=(60,)).start()
print("said", end=" ")
leave(int(sys.argv[1]))
"""


def test_a_rank_leaves_with_its_code_and_everything_said():
    for code in (0, 3):
        done = subprocess.run(
            [sys.executable, "-c", CODE, str(code)], capture_output=True, text=True, timeout=50
        )
        assert done.returncode == code
        assert done.stdout == "said finished\n"
        assert done.stderr == ""


def raised(error: BaseException) -> None:
    """As Lightning leaves a fit that a KeyboardInterrupt ended."""
    try:
        raise KeyboardInterrupt
    except KeyboardInterrupt:
        raise error  # noqa: B904


@pytest.mark.parametrize(
    ("error", "code", "status"),
    [
        (SystemExit(1), 75, "interrupted"),
        (KeyboardInterrupt(), 75, "interrupted"),
        (SystemExit(130), 130, "interrupted"),
        (RuntimeError("a bug"), 1, "failed"),
    ],
)
def test_how_a_run_ended_is_in_its_status(tmp_path: Path, monkeypatch, error, code, status):
    folder = RunFolder(tmp_path)

    def stage(settings, folder):
        if error.args == (1,):
            raised(error)
        raise error

    monkeypatch.setattr(runner, "run_stage", stage)
    assert worker.run({"kernels": "auto"}, folder) == code
    found = folder.status()
    assert found["status"] == status and found["exit_code"] == code


def test_a_signal_behind_the_end_does_not_take_it_back(tmp_path: Path, monkeypatch):
    folder = RunFolder(tmp_path)

    def stage(settings, folder):
        folder.set_status("done", exit_code=0)
        raise KeyboardInterrupt

    monkeypatch.setattr(runner, "run_stage", stage)
    assert worker.run({"kernels": "auto"}, folder) == 0
    assert folder.status()["status"] == "done"


def test_a_command_that_is_through_is_not_disturbed():
    code = (
        "import atexit, os, signal, sys; sys.path.insert(0, '.'); from plm import launch; "
        "atexit.register(lambda: [os.kill(os.getpid(), n) for n in (signal.SIGTERM, 2)]); "
        "launch.take_signals(); sys.exit(3)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, cwd=ROOT)
    assert (done.returncode, done.stderr) == (3, "")
