"""Do two commits train the same, bit for bit? The gate of every refactor.

    python scripts/loss_compare.py a=HEAD~1 b=HEAD
    python scripts/loss_compare.py a=HEAD b=worktree model=llama

a=<commit> b=<commit>   what to compare; `worktree` or `.` is the working tree as it stands
All else goes to both runs' configuration, as with train.py.

Both run 50 steps of +experiment=plm_pretrain scale=test, one thread each, on the same generated
text, from checkouts in a temporary folder. Loss and gradient norm of each step are compared as
metrics.csv has them. Exit code 0: equal; 1: the first step that differs is printed; 2: a mistake.
"""

import contextlib
import csv
import json
import os
import random
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path

# The checkout need not be installed: its root is not where Python looks for a script's imports.
sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from plm.errors import ConfigError, PlmError

ROOT = Path(__file__).resolve().parents[1]
STEPS = 50
# Of the scale `test`, in three phases of whole batches.
TOKENS = 50_000
WORKTREE = ("worktree", ".")
COLUMNS = ("loss", "grad_norm")


def write_text(folder: Path) -> Path:
    """Sixty short documents of made-up words, the same on every machine; the folder."""
    draw = random.Random(0)
    ends = ["", "a", "er", "ing", "ed"]
    words = [
        draw.choice("bcdfghjklmnprstvwz")
        + draw.choice("aeiou")
        + draw.choice("bcdfgklmnprst")
        + draw.choice(ends)
        for _ in range(400)
    ]
    # Zipf's law, so that there is something to learn.
    weights = [1 / (rank + 1) for rank in range(len(words))]
    folder.mkdir()
    for number in range(60):
        sentences = [
            " ".join(draw.choices(words, weights, k=draw.randint(6, 14))).capitalize() + "."
            for _ in range(40)
        ]
        (folder / f"{number:02}.txt").write_text("\n".join(sentences) + "\n", encoding="utf-8")
    return folder


def _git(*arguments: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        ["git", "-C", str(ROOT), *arguments], capture_output=True, text=True, check=False
    )


def commit_of(key: str, name: str) -> str:
    """The commit that a name means.

    Raises:
        ConfigError: there is none of this name.
    """
    found = _git("rev-parse", "--verify", "--quiet", "--end-of-options", f"{name}^{{commit}}")
    if found.returncode:
        raise ConfigError(f"{key}={name} is not a commit here; try {key}=HEAD or {key}=worktree")
    return found.stdout.strip()


@contextlib.contextmanager
def checkout(key: str, name: str, folder: Path) -> Iterator[Path]:
    """The tree of a commit in `folder`, removed afterwards; the working tree is used where it is.

    Raises:
        ConfigError: no such commit, or git cannot check it out.
    """
    if name in WORKTREE:
        yield ROOT
        return
    made = _git("worktree", "add", "--detach", str(folder), commit_of(key, name))
    if made.returncode:
        raise ConfigError(f"{key}={name} cannot be checked out: {made.stderr.strip()}")
    try:
        yield folder
    finally:
        _git("worktree", "remove", "--force", str(folder))


def start(tree: Path, text: Path, place: Path, overrides: list[str]) -> subprocess.Popen[str]:
    """The 50 steps of a tree, as a child process.

    Args:
        tree: where train.py lies.
        text: the data.
        place: for the prepared data and the run.
        overrides: further settings.
    """
    own = ("RANK", "WORLD_SIZE", "LOCAL_RANK", "PLM_SWEEP_FILE")
    env = {key: value for key, value in os.environ.items() if key not in own}
    # An installed package elsewhere must not be imported, and the tree stays as it is.
    env |= {"PYTHONPATH": str(tree), "PYTHONDONTWRITEBYTECODE": "1", "OMP_NUM_THREADS": "1"}
    place.mkdir()
    settings = [
        "+experiment=plm_pretrain",
        "scale=test",
        f"scale.tokens.pretrain={TOKENS}",
        "log_every_steps=1",
        "threads=1",
        "data.workers=1",
        f"data.path={text}",
        f"data.dir={place / 'data'}",
        f"runs_dir={place}",
        "name=run",
    ]
    log = (place / "output").open("w", encoding="utf-8")
    with log:
        return subprocess.Popen(
            [sys.executable, "train.py", *settings, *overrides],
            cwd=tree,
            env=env,
            stdout=log,
            stderr=subprocess.STDOUT,
            text=True,
        )


def read_steps(place: Path, name: str, code: int) -> list[dict[str, str]]:
    """Rows of the trained steps in metrics.csv.

    Raises:
        ConfigError: the run failed or was too short; its last line.
    """
    said = (place / "output").read_text(encoding="utf-8").strip().splitlines() or ["nothing said"]
    if code:
        raise ConfigError(f"{name}: train.py ended with exit code {code}: {said[-1]}")
    with (place / "run" / "metrics.csv").open(encoding="utf-8", newline="") as file:
        rows = [row for row in csv.DictReader(file) if row.get("loss")]
    if len(rows) < STEPS:
        raise ConfigError(f"{name}: {len(rows)} steps were made, {STEPS} are compared")
    return rows[:STEPS]


def first_difference(a: list[dict[str, str]], b: list[dict[str, str]]) -> str | None:
    """What differs first, with both values; None: nothing does."""
    for left, right in zip(a, b, strict=True):
        for column in ("step", "tokens", *COLUMNS):
            if left.get(column) != right.get(column):
                return (
                    f"step {left['step']} is the first that differs: {column} "
                    f"{left.get(column)} in a, {right.get(column)} in b"
                )
    return None


def _fingerprint(place: Path) -> str:
    manifests = sorted((place / "data").glob("*/manifest.json"))
    return json.loads(manifests[0].read_text(encoding="utf-8"))["fingerprint"] if manifests else ""


def compare(names: dict[str, str], overrides: list[str]) -> int:
    """Run both sides and print what came out; the exit code.

    Args:
        names: commit of `a` and of `b`.
        overrides: settings that both runs get.
    """
    with (
        tempfile.TemporaryDirectory(prefix="loss-compare-") as folder,
        contextlib.ExitStack() as up,
    ):
        base = Path(folder)
        text = write_text(base / "text")
        trees = {
            key: up.enter_context(checkout(key, name, base / f"tree-{key}"))
            for key, name in names.items()
        }
        children: dict[str, subprocess.Popen[str]] = {}
        try:
            for key, tree in trees.items():
                children[key] = start(tree, text, base / key, overrides)
            codes = {key: child.wait() for key, child in children.items()}
        finally:
            for child in children.values():
                child.kill()
        steps = {
            key: read_steps(base / key, f"{key}={names[key]}", code) for key, code in codes.items()
        }
        difference = first_difference(steps["a"], steps["b"])
        other_data = _fingerprint(base / "a") != _fingerprint(base / "b")
    if difference is None:
        print(f"{STEPS} steps bit-equal")
        return 0
    print(difference + ("; the prepared data differ too" if other_data else ""))
    return 1


def main(arguments: list[str]) -> int:
    """Compare what the arguments name; the exit code."""
    if any(argument in ("-h", "--help") for argument in arguments):
        print(__doc__)
        return 0
    names: dict[str, str] = {}
    rest = []
    try:
        for argument in arguments:
            key, sign, value = argument.partition("=")
            if sign and key in ("a", "b"):
                names[key] = value
            else:
                rest.append(argument)
        for key in ("a", "b"):
            if not names.get(key):
                raise ConfigError(f"{key}=<commit> is missing: a=HEAD~1 b=HEAD, or b=worktree")
        return compare({key: names[key] for key in ("a", "b")}, rest)
    except PlmError as error:
        print(error, file=sys.stderr)
        return error.exit_code


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
