"""The command that rebuilds a report."""

import subprocess
from pathlib import Path

from tests import forking

SCRIPT = Path(__file__).parents[2] / "scripts" / "report.py"


def _call(*arguments, cwd):
    command = [*forking.python(), str(SCRIPT), *arguments]
    return subprocess.run(command, cwd=cwd, capture_output=True, text=True, check=False)


def test_report_and_picture_from_any_folder(run_folder, tmp_path):
    done = _call(f"run={run_folder}", "picture=loss.svg", cwd=tmp_path)
    assert (done.returncode, done.stderr) == (0, "")
    assert done.stdout.split() == [str(run_folder / "report.html"), "loss.svg"]
    assert (tmp_path / "loss.svg").stat().st_size > 1000


def test_errors_are_one_line(tmp_path):
    for argument, message in (
        ("run=nowhere", "run=nowhere is not a folder"),
        ("picture=a.svg", "run=<run folder> is missing"),
        ("nonsense", "'nonsense' is not one of run=…, picture=…"),
    ):
        done = _call(argument, cwd=tmp_path)
        assert done.returncode == 2 and message in done.stderr
        assert done.stderr.count("\n") == 1
