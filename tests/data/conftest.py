"""A tiny recipe, prepared once for the tests that only look at it."""

import random
from pathlib import Path

import pytest
import yaml

from plm.data.prepare import prepare
from plm.data.recipe import load_recipe

WORDS = "time light water stone bird cloud river field house road night song".split()


def book(seed: int, n_lines: int) -> str:
    """Lines of words, the same for the same seed."""
    rng = random.Random(seed)
    return "".join(" ".join(rng.choices(WORDS, k=9)) + f" {i}.\n" for i in range(n_lines))


@pytest.fixture(scope="session")
def make_recipe():
    """`make_recipe(folder, **of_split)`: a recipe of two sources that reads $path and $path/b."""

    def make(folder: Path, **change):
        step = {"_target_": "plm.data.steps.normalise.normalise"}
        source = {
            "origin": {"_target_": "plm.data.sources.files.files", "path": "$path"},
            "licence": "none",
            "revision": "1",
            "steps": [step, {"_target_": "plm.data.steps.exact_dedup.exact_dedup"}],
            "split": {"by": "pieces", "val_share": 0.1},
        }
        content = {"sources": {"text": source, "again": {**source, **change}}}
        content["tokenizer"] = {"sample_bytes": 50_000}
        file = folder / "tiny.yaml"
        file.write_text(yaml.safe_dump(content))
        return load_recipe(file)

    return make


@pytest.fixture(scope="session")
def tiny(tmp_path_factory, make_recipe):
    """(recipe, the path its text lies at, the prepared data)."""
    folder = tmp_path_factory.mktemp("tiny")
    text = folder / "text"
    text.mkdir()
    for i in range(4):
        (text / f"book{i}.txt").write_text(book(i, 120))
    recipe = make_recipe(folder)
    made = prepare(
        recipe,
        data_dir=folder / "data",
        vocab_size=300,
        block_tokens=64,
        workers=1,
        path=str(text),
    )
    return recipe, text, made
