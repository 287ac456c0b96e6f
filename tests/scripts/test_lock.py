"""The lock file: what is pinned, which marker it gets, what is left out."""

import sys
import tomllib

import pytest

from scripts.lock import ROOT, closure, lock_text

linux_only = pytest.mark.skipif(sys.platform != "linux", reason="the lock is written on Linux")


def _project(dependencies: list[str], pins: dict[str, str] | None = None) -> dict:
    return {
        "project": {"dependencies": dependencies, "optional-dependencies": {"more": ["iniconfig"]}},
        "tool": {"plm": {"lock": {"extras": ["more"], "pins": pins or {}}}},
    }


@linux_only
def test_closure_follows_dependencies_and_extras_and_nothing_else():
    assert {"hydra-core", "omegaconf", "pyyaml"} <= set(closure(["hydra-core"], "linux"))
    assert "pytest" not in closure(["hydra-core"], "linux")
    assert "aiohttp" not in closure(["fsspec"], "linux")
    assert "aiohttp" in closure(["fsspec[http]"], "linux")


@linux_only
def test_lock_marks_what_linux_alone_needs_and_keeps_pins():
    text = lock_text(_project(["packaging", "numpy; sys_platform == 'linux'"], {"numpy": "1.2.3"}))
    lines = text.splitlines()[1:]
    assert 'numpy==1.2.3 ; sys_platform == "linux"' in lines
    assert [line.partition("==")[0] for line in lines] == ["iniconfig", "numpy", "packaging"]
    assert all(";" not in line for line in lines if not line.startswith("numpy"))


@linux_only
def test_a_missing_package_is_named():
    with pytest.raises(SystemExit, match="no-such-thing is not installed here"):
        closure(["no_such.thing"], "linux")


def test_the_committed_lock_is_portable_and_covers_the_project():
    lines = (ROOT / "requirements.lock").read_text().splitlines()[1:]
    assert all("+" not in line and "/" not in line and "==" in line for line in lines)
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())
    pinned = {line.partition("==")[0] for line in lines}
    wanted = {entry.partition(">")[0] for entry in project["project"]["dependencies"]}
    assert wanted <= pinned
    assert "torch==2.13.0" in lines
    for name in ("triton", "deepspeed"):
        line = next(line for line in lines if line.startswith(name + "=="))
        assert line.endswith(' ; sys_platform == "linux"')
