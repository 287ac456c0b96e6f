"""A recipe: which raw text, how it is cleaned, split and tokenised. One YAML a recipe."""

import inspect
import re
from collections.abc import Sequence
from dataclasses import MISSING, dataclass, field, fields, replace
from difflib import get_close_matches
from pathlib import Path
from typing import Any

import yaml

from plm.config import check_targets, locate
from plm.data.pairs import SHOWN
from plm.data.shards import check_shards
from plm.data.tokenizer_settings import TokenizerSettings, check_tokenizer
from plm.errors import ConfigError
from plm.rounds.template import default_text

RECIPES = Path(__file__).resolve().parents[2] / "data_recipes"
PATH_MARK = "$path"
"""In an origin's settings: the path that the user gives at run time."""

# The same safe loader in C, where PyYAML was built with it: a recipe is read at every start.
_LOADER = getattr(yaml, "CSafeLoader", yaml.SafeLoader)

SPLITS = ("group", "pieces", "auto")
BAD_ROWS = ("skip", "error")
"""What may become of a row that is no conversation or pair, or cannot be trained on."""
TOO_LONG = ("skip", "error", "cut")
"""What may become of a conversation that is longer than a block; a pair is never cut."""


@dataclass(frozen=True)
class Split:
    """How a source is divided into train and validation.

    Attributes:
        by: group (whole groups, the same side in all sources), pieces (contiguous stretches spread
            over the text), or auto (group if there are many small ones, else pieces).
        val_share: goal for validation's share of the bytes.
        max_leak: a validation document with more than this share of its long lines in train is
            dropped; 1 keeps all.
    """

    by: str = "group"
    val_share: float = 0.04
    max_leak: float = 1.0


@dataclass(frozen=True)
class Source:
    """One source.

    Attributes:
        origin: `_target_` call that returns an Origin; empty with `shards`.
        shards: in its place: paths of Megatron datasets made elsewhere, `train` and perhaps `val`,
            with the tokenizer of the recipe.
        licence: of the text; "per distribution" where the manifest lists them.
        revision: of the data set, or what fixes it.
        steps: `_target_` calls, run in this order.
        split: see Split.
        tokenizer_weight: this source's share in the tokenizer's sample, relative to the others.
        pack: keep whole documents together in windows of block_tokens, for text whose documents
            must not be cut; phases with this source then take windows of that length.
        conversations: the documents are conversations (see plm.data.conversations), which are
            rendered with the chat template, packed whole, and trained on where the assistant
            speaks.
        pairs: the documents are pairs of a better and a worse answer (see plm.data.pairs), rendered
            and packed likewise.
        too_long: what becomes of a conversation of more than block_tokens: skip, error or cut; of a
            pair with a part of more: skip or error.
        published_tokens: size of the whole set as its makers give it, for plans; None: not known.
    """

    licence: str
    revision: str
    origin: dict[str, Any] = field(default_factory=dict)
    shards: dict[str, str] = field(default_factory=dict)
    steps: list[dict[str, Any]] = field(default_factory=list)
    split: Split = Split()
    tokenizer_weight: float = 1.0
    pack: bool = False
    conversations: bool = False
    pairs: bool = False
    too_long: str = "skip"
    published_tokens: int | None = None

    @property
    def rendered(self) -> bool:
        """Whether the chat template makes tokens of it: it holds conversations, or pairs."""
        return self.conversations or self.pairs

    @property
    def bad_rows(self) -> str:
        """What becomes of rows that cannot be trained on, as its origin says: skip, or error."""
        return self.origin.get("bad_rows", "skip")


@dataclass(frozen=True)
class Recipe:
    """A recipe, checked.

    Attributes:
        name: the file's name without its suffix.
        sources: by name, in the file's order.
        tokenizer: see TokenizerSettings.
        versions: distribution (or python) to the version that the recipe was made with.
        content: the file as plain data, for the hash.
        chat_template: Jinja, for sources with conversations or pairs; None: ChatML.
        template_from: what an error calls it.
        refinement: how pairs' prompts show an answer; None: plm.rounds.template.default_text().
        shown: what pairs' prompts show, of plm.data.pairs.SHOWN, in its order.
    """

    name: str
    sources: dict[str, Source]
    tokenizer: TokenizerSettings
    versions: dict[str, str]
    content: dict[str, Any]
    chat_template: str | None = None
    template_from: str = "the chat template"
    refinement: str | None = None
    shown: tuple[str, ...] = SHOWN

    @property
    def takes_path(self) -> bool:
        """Whether some source reads what the user points at."""
        return PATH_MARK in str(self.content["sources"])

    @property
    def template(self) -> str | None:
        """The chat template of the sources that are rendered with one; None: there are none."""
        if not any(source.rendered for source in self.sources.values()):
            return None
        from plm.formats.chat import CHATML

        if self.chat_template is None:
            return CHATML.read_text(encoding="utf-8")
        return self.chat_template

    @property
    def pairs(self) -> bool:
        """Whether some source has pairs."""
        return any(source.pairs for source in self.sources.values())

    @property
    def refinement_text(self) -> str | None:
        """How pairs' prompts show an answer; None: there are no pairs, or no answer is shown."""
        if not self.pairs or self.shown == SHOWN[:1]:
            return None
        return default_text() if self.refinement is None else self.refinement


def load_recipe(recipe: str | Path) -> Recipe:
    """Read and check a recipe.

    Args:
        recipe: a name in data_recipes/, or the path of a YAML file.
    Raises:
        ConfigError: no such recipe, or a key or value in it that cannot work.
    """
    file = _find(recipe)
    content = _read(file, ())
    if not isinstance(content, dict) or not isinstance(content.get("sources"), dict):
        raise ConfigError(f"{file}: a recipe is a mapping with `sources`, a mapping by name")
    known = {"description", "sources", "tokenizer", "versions"}
    _check_keys(content, known, {"sources"}, file, "")
    # One of the recipe that it is like is left out by `name: null`.
    named = {name: node for name, node in content["sources"].items() if node is not None}
    content = {**content, "sources": named}
    for name in named:
        if not re.fullmatch(r"[\w.-]+", str(name)):
            raise ConfigError(f"{file}: sources.{name}: use letters, digits and . _ - in its name")
    sources = {str(name): _source(node, file, f"sources.{name}") for name, node in named.items()}
    if not sources:
        raise ConfigError(f"{file}: sources is empty; a recipe needs at least one")
    tokenizer = _tokenizer(content.get("tokenizer") or {}, file)
    versions = content.get("versions") or {}
    if not isinstance(versions, dict):
        raise ConfigError(f"{file}: versions={versions!r} must be a mapping of names to versions")
    for name, version in versions.items():
        # YAML reads 3.20 as the number 3.2.
        if not isinstance(version, str):
            raise ConfigError(f'{file}: versions.{name}={version} must be in quotes: "{version}"')
    return Recipe(file.stem, sources, tokenizer, versions, content)


def with_tokenizer(
    recipe: Recipe, file: Path, end_of_text: str | None = None, new_tokens: Sequence[str] = ()
) -> Recipe:
    """The recipe with an existing tokenizer in the place of its own.

    Args:
        recipe: as loaded.
        file: tokenizer.json.
        end_of_text: the token that ends a document; None: the first special one.
        new_tokens: special tokens added behind the others.
    """
    settings = TokenizerSettings(
        file=str(file), end_of_text=end_of_text, new_tokens=list(new_tokens)
    )
    check_tokenizer(settings, "data.tokenizer")
    # Where the file lies decides nothing; what is in it is looked at through content_mark.
    said = {"end_of_text": end_of_text, "new_tokens": list(new_tokens)}
    return replace(recipe, tokenizer=settings, content={**recipe.content, "tokenizer": said})


def _read(file: Path, before: tuple[Path, ...]) -> Any:
    """The file as plain data, over the recipe that it is `like`, mapping by mapping."""
    try:
        content = yaml.load(file.read_text(encoding="utf-8"), _LOADER)
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        raise ConfigError(f"{file}: not valid YAML: {' '.join(str(error).split())}") from error
    if not isinstance(content, dict) or "like" not in content:
        return content
    name = content.pop("like")
    if not isinstance(name, str):
        raise ConfigError(f"{file}: like={name!r} must be a recipe's name, or a file's")
    beside = file.parent / name
    other = beside if beside.is_file() else _find(name)
    if other.resolve() in (path.resolve() for path in (*before, file)):
        raise ConfigError(f"{file}: like={name}: they are like each other without end")
    return _over(_read(other, (*before, file)), content)


def _over(base: Any, changes: Any) -> Any:
    """`changes` over `base`: mappings are merged, all else takes the place of what was there."""
    if not (isinstance(base, dict) and isinstance(changes, dict)):
        return changes
    merged = {key: _over(value, changes.get(key, value)) for key, value in base.items()}
    return merged | {key: value for key, value in changes.items() if key not in base}


def _find(recipe: str | Path) -> Path:
    text = str(recipe)
    if re.fullmatch(r"[\w-]+", text) and (RECIPES / f"{text}.yaml").is_file():
        return RECIPES / f"{text}.yaml"
    if Path(text).is_file():
        return Path(text)
    names = sorted(path.stem for path in RECIPES.glob("*.yaml"))
    raise ConfigError(f"recipe={text}: no such file, and data_recipes/ has {', '.join(names)}")


def _check_keys(node: Any, known: set, needed: set, file: Path, key: str) -> None:
    where = f"{file}: {key}" if key else str(file)
    if not isinstance(node, dict):
        raise ConfigError(f"{where} must be a mapping, got {node!r}")
    for name in node:
        if name not in known:
            near = get_close_matches(str(name), sorted(known), n=1)
            hint = f"; did you mean {near[0]}?" if near else f"; known: {', '.join(sorted(known))}"
            raise ConfigError(f"{file}: unknown key {f'{key}.' if key else ''}{name}{hint}")
    for name in sorted(needed - set(node)):
        raise ConfigError(f"{where}: {name} is missing")


def _make(kind: type, node: Any, file: Path, key: str) -> Any:
    required = {f.name for f in fields(kind) if f.default is MISSING is f.default_factory}
    if isinstance(node, dict):
        # A key with nothing behind it is as if it were not there.
        node = {name: value for name, value in node.items() if value is not None}
    _check_keys(node, {f.name for f in fields(kind)}, required, file, key)
    for name, value in node.items():
        allowed = _KINDS.get(name)
        if allowed and (not isinstance(value, allowed) or isinstance(value, bool)):
            words = " or ".join(_WORDS[one] for one in allowed)
            raise ConfigError(f"{file}: {key}.{name}={value!r} must be {words}")
    return kind(**node)


_WORDS = {dict: "a mapping", list: "a list", str: "text", int: "a number", float: "a fraction"}
_KINDS: dict[str, tuple[type, ...]] = {
    **dict.fromkeys(("origin", "shards"), (dict,)),
    "steps": (list,),
    **dict.fromkeys(("licence", "revision", "by", "kind", "pre_tokenizer", "file", "hub"), (str,)),
    **dict.fromkeys(("tokenizer_weight", "val_share", "max_leak"), (int, float)),
    "sample_bytes": (int,),
}
"""What a key's value must be; the same in every part of a recipe."""


def _source(node: Any, file: Path, key: str) -> Source:
    if isinstance(node, dict) and node.get("split") is not None:
        node = {**node, "split": _make(Split, node["split"], file, f"{key}.split")}
    source = _make(Source, node, file, key)
    if bool(source.origin) == bool(source.shards):
        raise ConfigError(f"{file}: {key} needs either origin or shards")
    if source.shards:
        check_shards(source.shards, f"{file}: {key}.shards")
        if source.steps:
            raise ConfigError(f"{file}: {key}.steps clean text, and shards hold none")
    choices = [("origin", source.origin)] if source.origin else []
    choices += [("steps", step) for step in source.steps]
    for name, choice in choices:
        if not isinstance(choice, dict) or "_target_" not in choice:
            raise ConfigError(f"{file}: {key}.{name} needs a _target_, got {choice!r}")
        try:
            check_targets(choice, f"{key}.{name}")
            if name == "steps":
                _check_step(choice, f"{key}.{name}")
        except ConfigError as error:
            raise ConfigError(f"{file}: {error}") from error
    split = source.split
    if split.by not in SPLITS:
        raise ConfigError(f"{file}: {key}.split.by={split.by}: one of {', '.join(SPLITS)}")
    if not 0 < split.val_share < 0.5:
        raise ConfigError(f"{file}: {key}.split.val_share={split.val_share} is not in (0, 0.5)")
    if not 0 <= split.max_leak <= 1:
        raise ConfigError(f"{file}: {key}.split.max_leak={split.max_leak} is not in [0, 1]")
    size = source.published_tokens
    if size is not None and (isinstance(size, bool) or not isinstance(size, int) or size < 1):
        raise ConfigError(f"{file}: {key}.published_tokens={size!r} must be a whole number above 0")
    for name in ("pack", "conversations", "pairs"):
        if not isinstance(value := getattr(source, name), bool):
            raise ConfigError(f"{file}: {key}.{name}={value!r} must be true or false")
    _check_rendered(source, f"{file}: {key}")
    if not source.tokenizer_weight >= 0:
        raise ConfigError(f"{file}: {key}.tokenizer_weight={source.tokenizer_weight} is negative")
    return source


def _check_rendered(source: Source, key: str) -> None:
    if source.too_long not in TOO_LONG:
        raise ConfigError(f"{key}.too_long={source.too_long}: one of {', '.join(TOO_LONG)}")
    if not source.rendered:
        if source.too_long != Source.too_long:
            raise ConfigError(f"{key}.too_long has no effect without conversations: true")
        return
    what = "pairs" if source.pairs else "conversations"
    if source.pairs and source.conversations:
        raise ConfigError(f"{key}: pairs and conversations exclude each other")
    if source.pairs and source.too_long == "cut":
        raise ConfigError(f"{key}.too_long=cut: a pair is never cut; use skip or error")
    if source.shards:
        raise ConfigError(f"{key}.{what}: shards hold tokens; name an origin")
    if source.split.by == "pieces":
        raise ConfigError(
            f"{key}.split.by=pieces would cut {what} in two; use group, or leave it out"
        )


def _check_step(choice: dict[str, Any], key: str) -> None:
    """Whether a step takes these settings, before it is called in the midst of the work."""
    given = {name: value for name, value in choice.items() if not name.startswith("_")}
    try:
        inspect.signature(locate(choice["_target_"])).bind(None, tally=None, **given)
    except TypeError as error:
        raise ConfigError(f"{key}: {choice['_target_']}: {error}") from error


def _tokenizer(node: Any, file: Path) -> TokenizerSettings:
    settings = _make(TokenizerSettings, node, file, "tokenizer")
    if settings.file and settings.hub:
        raise ConfigError(f"{file}: tokenizer.file and tokenizer.hub exclude each other")
    if settings.adopted:
        idle = sorted({"pre_tokenizer", "special_tokens", "sample_bytes"} & set(node))
        if idle:
            raise ConfigError(
                f"{file}: tokenizer.{idle[0]} has no effect on an existing tokenizer; drop it, or "
                f"drop tokenizer.{'file' if settings.file else 'hub'} to train one"
            )
    if settings.file:
        path = file.resolve().parent / Path(settings.file).expanduser()
        if not path.is_file():
            raise ConfigError(f"{file}: tokenizer.file={settings.file}: no such file ({path})")
        settings = replace(settings, file=str(path))
    check_tokenizer(settings, file)
    return settings
