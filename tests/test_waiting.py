"""Waiting threads sleep on a busy machine, and what the user chose stays."""

import os
from pathlib import Path

import pytest

from plm import waiting


@pytest.fixture(autouse=True)
def nothing_chosen(monkeypatch: pytest.MonkeyPatch):
    for name in ("OMP_WAIT_POLICY", "GOMP_SPINCOUNT"):
        # Set first, so that what the test leaves goes too.
        monkeypatch.setenv(name, "")
        monkeypatch.delenv(name)
    monkeypatch.setattr(waiting, "SAMPLE_S", 0.0)


class Stat:
    """/proc/stat, read twice."""

    def __init__(self, *lines: str) -> None:
        self.lines = list(lines)

    def read_text(self, encoding: str) -> str:
        return self.lines.pop(0) + "\ncpu0 1 2 3\n"


@pytest.mark.parametrize(
    ("later", "share"),
    [("cpu 100 0 0 190 10 0 0 0", 0.0), ("cpu 125 0 15 150 10 0 0 0", 0.4)],
)
def test_the_share_is_of_all_cores(later: str, share: float):
    # All of 100 more are idle or wait for a disk; then 60 of 100.
    first = "cpu 100 0 0 100 0 0 0 0"
    assert waiting.busy_share(Stat(first, later)) == pytest.approx(share)


def test_where_the_system_does_not_tell(tmp_path: Path):
    assert waiting.busy_share(tmp_path / "stat") is None
    (tmp_path / "stat").write_text("nothing of the kind")
    assert waiting.busy_share(tmp_path / "stat") is None


@pytest.mark.parametrize(("share", "policy"), [(0.1, None), (0.5, "PASSIVE"), (None, None)])
def test_threads_sleep_where_the_cores_are_used(share, policy, monkeypatch):
    monkeypatch.setattr(waiting, "busy_share", lambda: share)
    waiting.choose()
    assert os.environ.get("OMP_WAIT_POLICY") == policy
    monkeypatch.setenv("OMP_WAIT_POLICY", "ACTIVE")
    waiting.choose()
    assert os.environ["OMP_WAIT_POLICY"] == "ACTIVE"
