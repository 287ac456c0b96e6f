"""scripts/loss_compare.py: checkouts that come and go, the verdict, one line for each mistake."""

import shutil
import subprocess
from pathlib import Path

import pytest

from scripts import loss_compare
from scripts.loss_compare import ROOT, first_difference, main, write_text

# Stands in for train.py: 51 rows as the real one writes them, one of them from a file of the tree.
TRAIN = """
import pathlib, sys
given = dict(word.split("=", 1) for word in sys.argv[1:] if "=" in word)
if "fail" in given:
    sys.exit("phases.stable.tokens is missing")
assert pathlib.Path(given["data.path"]).is_dir()
here = pathlib.Path(__file__).parent
odd = (here / "value.txt").read_text().strip()
run = pathlib.Path(given["runs_dir"], given["name"])
run.mkdir()
rows = ["step,tokens,val/loss,loss,grad_norm", "0,0,6.2,,"]
for step in range(1, int(given.get("steps", 50)) + 1):
    rows.append(f"{step},{1024 * step},,{odd if step == 17 else 6.0 / step},{1.0 / step}")
(run / "metrics.csv").write_text("\\n".join(rows) + "\\n")
"""


def git(folder: Path, *arguments: str) -> str:
    identity = ["-c", "user.name=Test", "-c", "user.email=test@example.org"]
    done = subprocess.run(
        ["git", *identity, *arguments], cwd=folder, capture_output=True, text=True, check=True
    )
    return done.stdout


@pytest.fixture
def repository(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    folder = tmp_path / "repository"
    folder.mkdir()
    git(folder, "init", "--quiet")
    (folder / "train.py").write_text(TRAIN)
    for value in ("0.1", "0.1", "0.25"):
        (folder / "value.txt").write_text(value)
        git(folder, "add", ".")
        git(folder, "commit", "--quiet", "--allow-empty", "-m", value)
    monkeypatch.setattr(loss_compare, "ROOT", folder)
    return folder


def test_equal_commits_are_said_to_be(repository: Path, capsys: pytest.CaptureFixture[str]):
    assert main(["a=HEAD~2", "b=HEAD~1"]) == 0
    assert capsys.readouterr().out == "50 steps bit-equal\n"


def test_the_first_difference_is_named(repository: Path, capsys: pytest.CaptureFixture[str]):
    assert main(["a=HEAD~1", "b=HEAD"]) == 1
    expected = "step 17 is the first that differs: loss 0.1 in a, 0.25 in b\n"
    assert capsys.readouterr().out == expected


@pytest.mark.parametrize("name", ["worktree", "."])
def test_the_working_tree_is_taken_as_it_stands(
    repository: Path, name: str, capsys: pytest.CaptureFixture[str]
):
    (repository / "value.txt").write_text("0.5")
    assert main(["a=HEAD", f"b={name}"]) == 1
    assert "loss 0.25 in a, 0.5 in b" in capsys.readouterr().out
    assert main([f"a={name}", f"b={name}"]) == 0


def test_nothing_of_the_checkouts_is_left(repository: Path):
    (repository / "value.txt").write_text("0.5")
    before = sorted(path for path in repository.rglob("*") if ".git" not in path.parts)
    assert main(["a=HEAD~1", "b=worktree"]) == 1
    assert main(["a=HEAD~1", "b=HEAD", "fail=1"]) == 2
    assert git(repository, "worktree", "list").count("\n") == 1
    assert not (repository / ".git" / "worktrees").exists()
    assert sorted(path for path in repository.rglob("*") if ".git" not in path.parts) == before
    assert git(repository, "status", "--short") == " M value.txt\n"
    assert (repository / "value.txt").read_text() == "0.5"


@pytest.mark.parametrize(
    ("arguments", "text"),
    [
        (["a=HEAD"], "b=<commit> is missing"),
        (["a=HEAD", "b=nowhere"], "b=nowhere is not a commit here; try b=HEAD or b=worktree"),
        (["a=--help", "b=HEAD"], "a=--help is not a commit here"),
        (
            ["a=HEAD", "b=HEAD", "fail=1"],
            "a=HEAD: train.py ended with exit code 1: phases.stable.tokens is missing",
        ),
        (["a=HEAD", "b=HEAD", "steps=49"], "a=HEAD: 49 steps were made, 50 are compared"),
    ],
)
def test_a_mistake_is_one_line(
    repository: Path, arguments: list[str], text: str, capsys: pytest.CaptureFixture[str]
):
    assert main(arguments) == 2
    shown = capsys.readouterr()
    assert shown.err.startswith(text)
    assert shown.err.count("\n") == 1
    assert not shown.out


def test_the_gradient_norm_counts_too():
    row = {"step": "1", "tokens": "1024", "loss": "6.2", "grad_norm": "0.7"}
    assert first_difference([row], [dict(row)]) is None
    assert "grad_norm 0.7 in a, 0.8 in b" in str(
        first_difference([row], [row | {"grad_norm": "0.8"}])
    )


def test_the_text_is_the_same_every_time(tmp_path: Path):
    one, two = (write_text(tmp_path / name) for name in "ab")
    names = sorted(path.name for path in one.iterdir())
    assert len(names) == 60
    assert all((one / name).read_bytes() == (two / name).read_bytes() for name in names)
    assert len({(one / name).read_bytes() for name in names}) == 60


@pytest.mark.slow
@pytest.mark.timeout(900)
def test_the_real_training_by_two_trees(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
):
    folder = tmp_path / "repository"
    for name in ("plm", "configs", "data_recipes"):
        ignore = shutil.ignore_patterns("__pycache__")
        shutil.copytree(ROOT / name, folder / name, ignore=ignore)
    shutil.copy(ROOT / "train.py", folder)
    git(folder, "init", "--quiet")
    git(folder, "add", ".")
    git(folder, "commit", "--quiet", "-m", "as it is")
    monkeypatch.setattr(loss_compare, "ROOT", folder)
    changed = folder / "plm" / "model" / "rotary.py"
    changed.write_text(changed.read_text() + "\n# A comment changes nothing.\n")
    assert main(["a=HEAD", "b=worktree"]) == 0
    assert capsys.readouterr().out == "50 steps bit-equal\n"
    config = folder / "configs" / "optimizer" / "muon.yaml"
    config.write_text(config.read_text().replace("1.0e-8", "1.0e-4"))
    assert main(["a=HEAD", "b=worktree"]) == 1
    # The first step's loss and gradient come before the first update.
    assert "step 2 is the first that differs" in capsys.readouterr().out
