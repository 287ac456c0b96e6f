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


def like(tmp_path, name: str, **content):
    file = tmp_path / f"{name}.yaml"
    file.write_text(yaml.safe_dump(content))
    return file


def test_a_recipe_like_another_changes_what_it_says(tmp_path):
    saved(tmp_path)
    more = {"origin": {"_target_": "plm.data.sources.installed.prose"}}
    second = {**more, "licence": "MIT", "revision": "2"}
    changes = {"text": {"revision": "3", "origin": {"fields": ["a"]}}, "second": second}
    near = like(tmp_path, "near", like="mine.yaml", sources=changes, versions={"x": "1"})
    far = like(tmp_path, "far", like="near.yaml", sources={"text": None})
    found = load_recipe(near)
    assert found.name == "near" and list(found.sources) == ["text", "second"]
    text = found.sources["text"]
    assert (text.licence, text.revision) == ("none", "3")
    assert text.origin == {
        "_target_": "plm.data.sources.files.files", "path": "$path", "fields": ["a"]
    }  # fmt: skip
    assert "like" not in found.content and found.versions == {"x": "1"}
    assert list(load_recipe(far).sources) == ["second"]
    # By name too, and what is written out whole has the same hash.
    whole = yaml.safe_load((RECIPES / "terse.yaml").read_text())
    whole["sources"]["answers"]["origin"]["steps"] = 0.5
    whole["description"] = load_recipe("half").content["description"]
    assert load_recipe(like(tmp_path, "half", **whole)).content == load_recipe("half").content


def test_recipes_that_are_like_each_other(tmp_path):
    first = like(tmp_path, "first", like="second.yaml")
    like(tmp_path, "second", like="first.yaml")
    with pytest.raises(ConfigError, match=r"second\.yaml: like=first\.yaml: they are like each"):
        load_recipe(first)
    with pytest.raises(ConfigError, match=r"own\.yaml: like=own\.yaml: they are like each"):
        load_recipe(like(tmp_path, "own", like="own.yaml"))
    with pytest.raises(ConfigError, match=r"recipe=nothing: no such file, and data_recipes/ has"):
        load_recipe(like(tmp_path, "lost", like="nothing"))
    with pytest.raises(ConfigError, match=r"wrong\.yaml: like=3 must be a recipe's name"):
        load_recipe(like(tmp_path, "wrong", like=3))


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
        (lambda c: c.update(tokenizer={"special_tokens": []}), "special_tokens is empty"),
        (lambda c: c.update(tokenizer={"special_tokens": "<a>"}), "=<a> is not a list of texts"),
        (lambda c: c.update(tokenizer={"special_tokens": ["a", "a"]}), "names a token twice"),
        (
            lambda c: c.update(tokenizer={"end_of_text": "</s>"}),
            r"tokenizer\.end_of_text=</s> is not in tokenizer\.special_tokens \(<\|endoftext",
        ),
        (
            lambda c: c.update(tokenizer={"pre_tokenizer": "gpt3"}),
            r"tokenizer\.pre_tokenizer=gpt3: one of qwen2, gpt2, llama3",
        ),
        (lambda c: c.update(tokenizer={"sample_bytes": 0}), "sample_bytes=0 is not a positive"),
        (
            lambda c: c.update(tokenizer={"file": "a.json", "hub": "Qwen/Qwen2-0.5B"}),
            r"tokenizer\.file and tokenizer\.hub exclude each other",
        ),
        (
            lambda c: c.update(tokenizer={"file": "a.json", "special_tokens": ["a"]}),
            r"tokenizer\.special_tokens has no effect on an existing tokenizer; .*tokenizer\.file",
        ),
        (
            lambda c: c.update(tokenizer={"file": "a.json"}),
            r"tokenizer\.file=a\.json: no such file \(.*a\.json\)",
        ),
        (
            lambda c: c.update(tokenizer={"hub": "Qwen/Qwen2-0.5B"}),
            r"tokenizer\.revision is missing: a commit \(or branch\) of Qwen/Qwen2-0\.5B",
        ),
        (
            lambda c: c.update(tokenizer={"revision": "main"}),
            r"tokenizer\.revision needs tokenizer\.hub",
        ),
        (lambda c: c.update(sources={}), "sources is empty"),
        (lambda c: c.update(sources=[]), "a recipe is a mapping with `sources`"),
    ],
)
def test_errors_name_the_file_and_the_key(tmp_path, change, message):
    with pytest.raises(ConfigError, match=message) as caught:
        load_recipe(saved(tmp_path, change))
    assert "mine.yaml" in str(caught.value)
    assert "\n" not in str(caught.value)


def test_an_existing_tokenizer_lies_beside_the_recipe(tmp_path):
    (tmp_path / "theirs.json").write_text("{}")
    found = load_recipe(saved(tmp_path, lambda c: c.update(tokenizer={"file": "theirs.json"})))
    assert found.tokenizer.file == str(tmp_path / "theirs.json")
    assert found.tokenizer.adopted and found.tokenizer.end_of_text is None
    hub = {"hub": "Qwen/Qwen2-0.5B", "revision": "main", "end_of_text": "<|endoftext|>"}
    assert load_recipe(saved(tmp_path, lambda c: c.update(tokenizer=hub))).tokenizer.adopted


def test_not_yaml_and_not_there(tmp_path):
    (tmp_path / "bad.yaml").write_text("a: [")
    with pytest.raises(ConfigError, match=r"bad\.yaml: not valid YAML"):
        load_recipe(tmp_path / "bad.yaml")
    with pytest.raises(
        ConfigError, match=r"recipe=embeded: no such file, and data_recipes/ has .*emb"
    ):
        load_recipe("embeded")
