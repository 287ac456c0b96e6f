"""Peak memory of preparing much text: scripts/prepare_data.py as a child, watched all the time."""

import json
import shutil
import sys
from pathlib import Path
from typing import Any

import yaml

from scripts.bench_data_text import write_jsonl
from scripts.bench_data_tree import watched

GOAL_BYTES = 1_000_000_000
DOCUMENT_CHARS = 4000
STEPS = ("normalise", "exact_dedup", "near_dedup")
BLOCK_TOKENS = 4096
SAMPLE_BYTES = 6_000_000


def recipe(file: Path) -> Path:
    """A recipe of one source that reads data.path, with the steps that look at all documents."""
    steps = [{"_target_": f"plm.data.steps.{name}.{name}"} for name in STEPS]
    source = {
        "origin": {"_target_": "plm.data.sources.files.files", "path": "$path"},
        "licence": "per distribution",
        "revision": "installed versions, perturbed with a seed",
        "steps": steps,
        "split": {"by": "group", "val_share": 0.01},
    }
    content = {"sources": {"text": source}, "tokenizer": {"sample_bytes": SAMPLE_BYTES}}
    file.write_text(yaml.safe_dump(content), encoding="utf-8")
    return file


def bench_memory(own: dict[str, Any], folder: Path) -> dict[str, Any]:
    """Peak over the process tree, seconds and megabytes a second of one preparation."""
    text = folder / "text"
    made = write_jsonl(text, own["megabytes"] * 1_000_000, DOCUMENT_CHARS, seed=0)
    seen = watched(
        [
            sys.executable,
            "scripts/prepare_data.py",
            f"recipe={recipe(folder / 'much.yaml')}",
            f"path={text}",
            f"data_dir={folder / 'prepared'}",
            f"vocab_size={own['vocab_size']}",
            f"block_tokens={BLOCK_TOKENS}",
            f"workers={own['workers']}",
        ]
    )
    manifest = next((folder / "prepared").glob("*/manifest.json"))
    told = json.loads(manifest.read_text(encoding="utf-8"))
    shutil.rmtree(folder)
    peak = seen["peak_bytes"]["Pss"]
    return {
        "text": {**made, "document_chars": DOCUMENT_CHARS},
        "recipe_steps": STEPS,
        "workers": own["workers"],
        "peak_bytes": seen["peak_bytes"],
        "at_peak_of": seen["at_peak_of"],
        "peak_over_goal": peak / GOAL_BYTES,
        "samples": seen["samples"],
        "seconds_by_part": told["seconds"],
        "cpu_s": seen["cpu_s"],
        "wall_s": seen["wall_s"],
        "megabytes_a_s": made["bytes"] / seen["wall_s"] / 1e6,
        "megabytes_a_cpu_s": made["bytes"] / seen["cpu_s"] / 1e6,
        "kept": {part: told["sources"]["text"][part] for part in ("train", "val")},
        "rounds": 1,
    }
