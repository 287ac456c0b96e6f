"""What a recipe may say, and what it may not."""

import pytest
import yaml

from plm.data.recipe import RECIPES, load_recipe
from plm.errors import ConfigError

GOOD = {
    "sources": {
        "text": {
            "origin": {"_target_": "plm.data.sources.files.files", "path": "$path"},
            "licence": "none",
            "revision": "1",
        }
    }
}


def saved(tmp_path, change=lambda content: None):
    content = yaml.safe_load(yaml.safe_dump(GOOD))
    change(content)
    file = tmp_path / "mine.yaml"
    file.write_text(yaml.safe_dump(content))
    return file


@pytest.mark.parametrize("file", sorted(RECIPES.glob("*.yaml")), ids=lambda file: file.stem)
def test_every_recipe_loads(file):
    recipe = load_recipe(file.stem)
    assert recipe.name == file.stem
    assert recipe.sources
    assert all(source.licence and source.revision for source in recipe.sources.values())


def test_defaults(tmp_path):
    recipe = load_recipe(saved(tmp_path))
    assert recipe.takes_path
    assert recipe.sources["text"].split.by == "group"
    assert recipe.tokenizer.special_tokens[0] == "<|endoftext|>"


def source(content):
    return content["sources"]["text"]


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda c: c.update(source={}), r"mine\.yaml: unknown key source; did you mean sources\?"),
        (
            lambda c: source(c).update(licenses="x"),
            r"sources\.text\.licenses; did you mean licence",
        ),
        (
            lambda c: source(c).update(split={"share": 1}),
            r"unknown key sources\.text\.split\.share",
        ),
        (lambda c: source(c).pop("licence"), r"sources\.text: licence is missing"),
        (lambda c: source(c).update(split={"by": "file"}), "split.by=file: one of group, pieces"),
        (lambda c: source(c).update(split={"val_share": 0}), r"val_share=0 is not in \(0, 0\.5\)"),
        (lambda c: source(c).update(split={"max_leak": 2}), r"max_leak=2 is not in \[0, 1\]"),
        (lambda c: source(c).update(steps=[{"a": 1}]), r"sources\.text\.steps needs a _target_"),
        (lambda c: source(c)["origin"].update(_target_="os.remove"), "lies outside plm"),
        (lambda c: c.update(versions={"idna": 3.20}), 'versions.idna=3.2 must be in quotes: "3.2"'),
        (
            lambda c: c.update(tokenizer={"kind": "word"}),
            "tokenizer.kind=word: only byte_level_bpe",
        ),
        (lambda c: c.update(tokenizer={"special_tokens": []}), "special_tokens lacks <|endoftext"),
        (lambda c: c.update(sources={}), "sources is empty"),
        (lambda c: c.update(sources=[]), "a recipe is a mapping with `sources`"),
    ],
)
def test_errors_name_the_file_and_the_key(tmp_path, change, message):
    with pytest.raises(ConfigError, match=message) as caught:
        load_recipe(saved(tmp_path, change))
    assert "mine.yaml" in str(caught.value)
    assert "\n" not in str(caught.value)


def test_not_yaml_and_not_there(tmp_path):
    (tmp_path / "bad.yaml").write_text("a: [")
    with pytest.raises(ConfigError, match=r"bad\.yaml: not valid YAML"):
        load_recipe(tmp_path / "bad.yaml")
    with pytest.raises(
        ConfigError, match="recipe=embeded: no such file, and data_recipes/ has emb"
    ):
        load_recipe("embeded")
