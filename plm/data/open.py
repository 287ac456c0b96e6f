"""Open a configuration's data, preparing it first where that has not been done."""

from collections.abc import Callable, Mapping
from dataclasses import replace
from inspect import signature
from pathlib import Path
from typing import Any

from plm.config import locate
from plm.data.pairs import check_shown
from plm.data.prepare import is_prepared, prepare
from plm.data.prepared import Prepared
from plm.data.recipe import BAD_ROWS, TOO_LONG, Recipe, load_recipe, with_tokenizer
from plm.errors import ConfigError
from plm.rounds.template import Template

Tell = Callable[[str, int, int | None], None]


def open_data(settings: Mapping[str, Any], rank: int = 0, progress: Tell | None = None) -> Prepared:
    """The prepared data that the node `data` names.

    Args:
        settings: recipe, path, dir, vocab_size, block_tokens, seed and workers; perhaps tokenizer,
            chat_template, bad_rows, too_long, refinement and shown.
        rank: only rank 0 shows its progress.
        progress: told of each part of the preparation.
    Raises:
        DataError: a source, file or row that cannot be used.
    """
    return prepare(
        recipe_of(settings),
        data_dir=Path(settings["dir"]),
        vocab_size=settings["vocab_size"],
        block_tokens=settings["block_tokens"],
        seed=settings["seed"],
        workers=settings["workers"],
        progress=progress if rank == 0 else None,
        path=settings["path"],
    )


def recipe_of(settings: Mapping[str, Any]) -> Recipe:
    """The recipe that the node `data` names, with what the node says in the recipe's place.

    That is its tokenizer, chat template, what becomes of bad rows and of what is too long, and how
    and to which prompts of pairs an answer is shown.

    Raises:
        ConfigError: the tokenizer or the template is not there, or a setting has no effect.
    """
    recipe, named = load_recipe(settings["recipe"]), settings.get("tokenizer")
    if settings.get("chat_template"):
        recipe = with_template(recipe, settings["chat_template"], named)
        if settings.get("tokenizer_sha256") and "{" in settings["chat_template"]:
            # Perhaps taken over with the tokenizer.
            recipe = replace(recipe, template_from="the chat template of data or of init_from")
    for key, choices in (("bad_rows", BAD_ROWS), ("too_long", TOO_LONG)):
        if settings.get(key) is not None:
            recipe = _with_rows(recipe, key, settings[key], choices)
    refinement, shown = settings.get("refinement"), settings.get("shown")
    if refinement is not None or shown is not None:
        recipe = _with_shown(recipe, refinement, shown)
    new = settings.get("new_tokens") or []
    if not named:
        if new:
            raise ConfigError("data.new_tokens extends an existing tokenizer: name data.tokenizer")
        return recipe
    path = Path(named)
    file = path / "tokenizer.json" if path.is_dir() else path
    if not file.is_file():
        raise ConfigError(f"data.tokenizer={named}: there is no tokenizer.json")
    return with_tokenizer(recipe, file, settings.get("end_of_text"), new)


def with_template(recipe: Recipe, named: str, tokenizer: str | None = None) -> Recipe:
    """The recipe with a chat template in the place of ChatML.

    Args:
        recipe: as loaded.
        named: Jinja, or the path of a file of it.
        tokenizer: a file, or its folder: tokenizer_config.json beside it, or beside the template's
            file, says what the template reads as bos_token.
    Raises:
        ConfigError: it is neither, or the file is empty.
    """
    # It is needed for conversations alone.
    from plm.formats.chat import self_contained

    text, beside = named, Path(tokenizer) if tokenizer else None
    where = "data.chat_template"
    if "{" not in named:
        beside, where = Path(named).expanduser(), f"data.chat_template={named}"
        try:
            text = beside.read_text(encoding="utf-8")
        except (OSError, UnicodeDecodeError) as error:
            raise ConfigError(
                f"data.chat_template={named}: neither a template nor a file of one: {error}"
            ) from error
    if not text.strip():
        raise ConfigError(
            f"{where} is empty; name a file with a template, or leave it out for that of the model "
            "that the run begins from, or ChatML"
        )
    if beside is not None:
        text = self_contained(text, beside if beside.is_dir() else beside.parent)
    return replace(recipe, chat_template=text, template_from=where)


def _with_rows(recipe: Recipe, key: str, value: Any, choices: tuple[str, ...]) -> Recipe:
    """The recipe with another `bad_rows` or `too_long` for all of its conversations and pairs.

    Those that it makes itself have no bad_rows: what cannot be trained on there is left out.
    """
    if value not in choices:
        raise ConfigError(f"data.{key}={value}: one of {', '.join(choices)}, or null")
    sources, content, found = dict(recipe.sources), dict(recipe.content["sources"]), False
    for name, source in recipe.sources.items():
        target = source.origin.get("_target_")
        takes = key == "too_long" or (target and key in signature(locate(target)).parameters)
        if not (source.rendered and takes):
            continue
        found = True
        if source.pairs and value == "cut":
            raise ConfigError("data.too_long=cut: a pair is never cut; use skip or error")
        # What the recipe says anyway needs no other data.
        if getattr(source, key) != value:
            change = (
                {key: value} if key == "too_long" else {"origin": {**source.origin, key: value}}
            )
            sources[name] = replace(source, **change)
            content[name] = {**content[name], **change}
    if not found:
        raise ConfigError(
            f"data.{key}={value} has no effect: recipe {recipe.name} reads no conversations or "
            "pairs; set data.path, or leave it out"
        )
    return replace(recipe, sources=sources, content={**recipe.content, "sources": content})


def _with_shown(recipe: Recipe, refinement: Any, shown: Any) -> Recipe:
    """The recipe with another way to show answers in prompts, or other prompts that show them."""
    change: dict[str, Any] = {}
    if refinement is not None:
        change["refinement"] = Template(refinement).text
    if shown is not None:
        change["shown"] = check_shown(shown, "data.shown")
    sources, content, found = dict(recipe.sources), dict(recipe.content["sources"]), recipe.pairs
    of_origin = {"refinement": "template", "shown": "shown"}
    for name, source in recipe.sources.items():
        target = source.origin.get("_target_")
        takes = signature(locate(target)).parameters if target else {}
        if not set(of_origin.values()) <= set(takes):
            continue
        found = True
        origin = {**source.origin, **{of_origin[key]: value for key, value in change.items()}}
        origin |= {"shown": list(change["shown"])} if shown is not None else {}
        sources[name] = replace(source, origin=origin)
        content[name] = {**content[name], "origin": origin}
    if not found:
        key = "refinement" if shown is None else "shown"
        raise ConfigError(
            f"data.{key} has no effect: recipe {recipe.name} reads no pairs; name one that does, "
            "such as pairs or refinements, or leave it out"
        )
    content = {**recipe.content, "sources": content}
    return replace(recipe, sources=sources, content=content, **change)


def find_data(settings: Mapping[str, Any]) -> Path | None:
    """The folder of the data that the node `data` names, if they were prepared before."""
    return is_prepared(
        recipe_of(settings),
        data_dir=Path(settings["dir"]),
        vocab_size=settings["vocab_size"],
        block_tokens=settings["block_tokens"],
        seed=settings["seed"],
        path=settings["path"],
    )
