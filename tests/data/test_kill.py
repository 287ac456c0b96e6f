"""Killed at random while it prepares, a recipe ends with an undisturbed one's bytes."""

import json
import os
import random
import signal
import subprocess
import sys
import time
from contextlib import suppress
from pathlib import Path

import pytest
import yaml

from tests import forking

ROOT = Path(__file__).resolve().parents[2]
KILLS = 10
STEPS = "normalise.normalise exact_dedup.exact_dedup near_dedup.near_dedup".split()


def write_recipe(folder: Path, text: Path) -> Path:
    source = {
        "origin": {"_target_": "plm.data.sources.files.files", "path": str(text)},
        "licence": "none",
        "revision": "1",
        "steps": [{"_target_": f"plm.data.steps.{name}"} for name in STEPS],
        "split": {"by": "pieces", "val_share": 0.05},
    }
    plain = {**source, "steps": source["steps"][:1]}
    talk = {
        **plain,
        "origin": {
            "_target_": "plm.data.sources.conversations.conversations",
            "path": str(text),
            "fields": {"prompt": "title", "completion": "text"},
        },
        "steps": source["steps"][1:2],
        "split": {"val_share": 0.05},
        "conversations": True,
        "too_long": "cut",
    }
    file = folder / "killed.yaml"
    sources = {"several": source, "plain": plain, "talk": talk}
    file.write_text(yaml.safe_dump({"sources": sources}))
    return file


def write_text(path: Path) -> None:
    rng = random.Random(0)
    words = ["".join(rng.choices("abcdefghij", k=rng.randint(2, 9))) for _ in range(3000)]
    with path.open("w", encoding="utf-8") as file:
        for number in range(2000):
            text = " ".join(rng.choices(words, k=rng.randint(100, 900)))
            row = {"text": text.replace(words[0], words[0] + "\n\n"), "title": f"Number {number}?"}
            file.write(json.dumps(row) + "\n")


def state(folder: Path) -> frozenset:
    """The files of an unfinished preparation and their sizes: another one where it got on."""
    found = []
    for path in folder.glob("*.partial/*"):
        with suppress(FileNotFoundError):
            found.append((path.name, path.stat().st_size))
    return frozenset(found)


def run(command: list[str], folder: Path, most: int | None = None) -> tuple[int | None, int]:
    """Exit code, or None where it was killed when it had got on so often; how often it did.

    By what it has done, not by the time: how fast it is depends on what runs beside it.
    """
    child = subprocess.Popen(
        command, cwd=ROOT, start_new_session=True, stdout=subprocess.DEVNULL, stderr=sys.stderr
    )
    last, changes = state(folder), 0
    while child.poll() is None:
        now = state(folder)
        changes, last = changes + (now != last), now
        if most is not None and changes > most:
            # The workers, too.
            os.killpg(child.pid, signal.SIGKILL)
            child.wait()
            return None, changes
        time.sleep(0.005)
    return child.wait(), changes


@pytest.mark.slow
def test_ten_kills(tmp_path):
    text = tmp_path / "text.jsonl"
    write_text(text)
    command = [*forking.python(), "scripts/prepare_data.py", "workers=2", "vocab_size=600"]
    command += ["block_tokens=256", f"recipe={write_recipe(tmp_path, text)}"]
    whole, killed = (tmp_path / name for name in ("whole", "killed"))
    code, changes = run([*command, f"data_dir={whole}"], whole)
    assert code == 0
    rng, kills, seen = random.Random(7), 0, set()
    code = None
    while code != 0:
        most = rng.randint(0, changes // 4) if kills < KILLS else None
        code, _ = run([*command, f"data_dir={killed}"], killed, most)
        if code is None:
            kills += 1
            seen.add(frozenset(path.name for path in killed.glob("*.partial/*")))
    (first,), (second,) = (list(folder.glob("killed-*/")) for folder in (whole, killed))
    manifests = [json.loads((f / "manifest.json").read_text("utf-8")) for f in (first, second)]
    # It was caught at several stages, not only while starting.
    assert kills >= 5
    assert len(seen) >= 3, (kills, changes)
    for key in ("fingerprint", "files", "sources"):
        assert manifests[0][key] == manifests[1][key]
    for name in manifests[0]["files"]:
        assert (first / name).read_bytes() == (second / name).read_bytes()
