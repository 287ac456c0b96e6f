"""The command lines of the scripts: what is not a setting, and a Python without the packages."""

import subprocess
import sys
from pathlib import Path

import pytest

from plm.errors import ConfigError
from scripts.arguments import read

ROOT = Path(__file__).resolve().parents[2]


def test_a_folder_alone_is_asked_about(tmp_path: Path):
    with pytest.raises(ConfigError, match=rf"did you mean run={tmp_path}\?"):
        read([str(tmp_path)], {"run": None})
    with pytest.raises(ConfigError, match="there is no such folder; a folder is given as run=<"):
        read([str(tmp_path / "nothing")], {"run": None})
    with pytest.raises(ConfigError, match="known: tasks"):
        read([str(tmp_path)], {"tasks": None})
    with pytest.raises(ConfigError, match="did you mean run="):
        read(["rum=x"], {"run": None})


@pytest.mark.parametrize("command", ["train.py", "scripts/chat.py", "scripts/evaluate.py"])
def test_without_the_packages_it_is_one_line(command: str):
    # Isolated and without site-packages: as a system's Python that has none of them.
    given = [sys.executable, "-S", "-E", str(ROOT / command), "run=x"]
    done = subprocess.run(given, capture_output=True, text=True, timeout=60, cwd=ROOT)
    said = done.stderr.strip()
    assert done.returncode == 2 and said.count("\n") == 0
    assert "has no torch" in said and ("activate" in said or "README" in said)
