"""The benchmark against TRL: its settings, and our side of it on a few tokens."""

import json
import subprocess
import sys
from pathlib import Path

import pytest

from scripts.bench_rlvr import DEFAULTS, main, settings_of
from scripts.bench_rlvr_forms import Clock, prepare, reward

ROOT = Path(__file__).resolve().parents[2]
SMALL = {"vocab": 512, "prompts": 2, "group": 4, "new": 4, "question": 6, "micro": 4, "steps": 1,
         "hidden": 32, "layers": 1}  # fmt: skip


@pytest.mark.parametrize(
    ("arguments", "line"),
    [
        (["alternations=1"], "alternations=1 has no spread"),
        (["steps=0"], "steps=0 is not a whole number of at least 1"),
        (["group=x"], "group=x is not a whole number"),
        (["form=verl"], "form=verl is not one of ours, trl"),
        (["form=ours", "micro=7"], "micro=7 does not divide prompts * group"),
        (["peer=nowhere"], "peer=nowhere is not there; make test-peers sets it up"),
        (["grup=4"], "unknown setting 'grup=4'; did you mean group"),
    ],
)
def test_what_cannot_be_is_said_in_one_line(arguments: list[str], line: str, capsys) -> None:
    assert main(arguments) == 2
    said = capsys.readouterr().err
    assert line in said and said.count("\n") == 1


def test_defaults_are_whole() -> None:
    assert settings_of(["form=trl"])["vocab"] >= 32_000


def test_rewards_differ_and_lie_between_0_and_1() -> None:
    found = reward([f"text {n}" for n in range(50)])
    assert min(found) >= 0 and max(found) <= 1 and len(set(found)) > 20


def test_the_first_step_is_not_measured() -> None:
    clock = Clock(2)
    for _ in range(3):
        assert not clock.found
        clock.begin()
        clock.end()
    assert set(clock.found) == {"cpu_s", "wall_s", "peak_bytes"} and clock.found["wall_s"] >= 0


@pytest.mark.slow
def test_our_side(tmp_path: Path) -> None:
    own = {**DEFAULTS, **SMALL, "folder": str(tmp_path)}
    prepare(own)
    given = [f"{key}={value}" for key, value in {**SMALL, "folder": tmp_path}.items()]
    done = subprocess.run(
        [sys.executable, str(ROOT / "scripts/bench_rlvr.py"), "form=ours", *given],
        cwd=tmp_path, capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    found = json.loads(done.stdout)
    # Every answer is as long as it may be.
    assert found["tokens"] == 2 * 4 * 4 and found["wall_s"] > 0
