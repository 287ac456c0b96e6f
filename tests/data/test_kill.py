"""Killed at random while it prepares, a recipe ends with an undisturbed one's bytes."""

import json
import os
import random
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import yaml

from plm.data.prepare import prepare
from plm.data.recipe import load_recipe

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
    file = folder / "killed.yaml"
    file.write_text(yaml.safe_dump({"sources": {"several": source, "plain": plain}}))
    return file


def write_text(path: Path) -> None:
    rng = random.Random(0)
    words = ["".join(rng.choices("abcdefghij", k=rng.randint(2, 9))) for _ in range(3000)]
    with path.open("w", encoding="utf-8") as file:
        for _ in range(2500):
            text = " ".join(rng.choices(words, k=rng.randint(100, 900)))
            file.write(json.dumps({"text": text.replace(words[0], words[0] + "\n\n")}) + "\n")


@pytest.mark.slow
def test_ten_kills(tmp_path):
    text = tmp_path / "text.jsonl"
    write_text(text)
    recipe = write_recipe(tmp_path, text)
    settings = {"vocab_size": 600, "block_tokens": 256}
    whole = prepare(load_recipe(recipe), data_dir=tmp_path / "whole", workers=2, **settings)
    command = [sys.executable, "scripts/prepare_data.py", f"recipe={recipe}", "workers=2"]
    command += [f"data_dir={tmp_path / 'killed'}", *(f"{k}={v}" for k, v in settings.items())]
    rng, kills, seen = random.Random(7), 0, set()
    begun = time.monotonic()
    code = None
    # The time that each try gets grows, so that the kills spread over all parts of the work.
    while code != 0:
        child = subprocess.Popen(command, cwd=ROOT, start_new_session=True)
        try:
            limit = 2 + kills * 0.6 + rng.random() * 2 if kills < KILLS else 240
            code = child.wait(limit)
        except subprocess.TimeoutExpired:
            seen.add(frozenset(p.suffix for p in tmp_path.glob("killed/*.partial/*")))
            os.killpg(child.pid, signal.SIGKILL)
            child.wait()
            kills += 1
        assert time.monotonic() - begun < 280
    made = prepare(load_recipe(recipe), data_dir=tmp_path / "killed", **settings)
    assert kills >= 5
    # It was caught at several stages, not only while starting.
    assert len(seen) >= 3
    assert made.fingerprint == whole.fingerprint
    assert made.manifest["files"] == whole.manifest["files"]
    assert made.manifest["sources"] == whole.manifest["sources"]
