"""The default recipe: its pins, and the whole preparation."""

import re
from pathlib import Path

import pytest
import yaml

from plm.config import build
from plm.data.prepare import prepare
from plm.data.recipe import RECIPES, load_recipe

ROOT = Path(__file__).resolve().parents[2]


def canonical(name):
    return re.sub(r"[-_.]+", "-", name).lower()


def test_every_distribution_has_a_pin():
    recipe = load_recipe("embedded")
    named = set()
    for source in recipe.sources.values():
        for key in ("docstrings", "readmes", "distributions"):
            named.update(source.origin.get(key, []))
    assert named
    assert named <= set(recipe.versions)
    assert {"tokenizers", "reasoning_gym", "rensa"} <= set(recipe.versions)


def test_pins_are_those_that_are_installed_with_the_project():
    lock = (ROOT / "requirements.lock").read_text()
    pins = {canonical(n): v for n, v in re.findall(r"^([\w.-]+)==([^\s;]+)", lock, re.MULTILINE)}
    versions = {canonical(n): v for n, v in load_recipe("embedded").versions.items()}
    versions.pop("python")
    assert {name: pins.get(name) for name in versions} == versions


def test_every_part_is_found():
    recipe = load_recipe("embedded")
    for source in recipe.sources.values():
        origin = build(source.origin)
        assert origin.facts.get("missing", []) == []
    code = build(recipe.sources["code"].origin)
    found = {item.name for item in code.items}
    for roots in recipe.sources["code"].origin["only"].values():
        for root in roots:
            assert any(name == root or name.startswith(f"{root}/") for name in found), root


@pytest.mark.slow
def test_the_whole_preparation(tmp_path):
    made = prepare(load_recipe("embedded"), data_dir=tmp_path, vocab_size=4096, block_tokens=1024)
    data = made.manifest
    assert data["tokenizer_size"] == 4096
    assert list(data["sources"]) == list(
        yaml.safe_load((RECIPES / "embedded.yaml").read_text())["sources"]
    )
    for name, source in data["sources"].items():
        share = source["val"]["tokens"] / (source["val"]["tokens"] + source["train"]["tokens"])
        assert 0.025 < share < 0.065, name
        if name != "math":
            assert source["leak"]["share"] <= 0.03, name
    assert made.sources["math"]["train"].n_docs > 5000
    assert sum(s["train"]["tokens"] for s in data["sources"].values()) > 5_000_000
