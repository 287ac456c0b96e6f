"""Open a configuration's data, preparing it first where that has not been done."""

from collections.abc import Callable, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

from plm.data.prepare import is_prepared, prepare
from plm.data.prepared import Prepared
from plm.data.recipe import Recipe, load_recipe, with_tokenizer
from plm.errors import ConfigError

Tell = Callable[[str, int, int | None], None]


def open_data(settings: Mapping[str, Any], rank: int = 0, progress: Tell | None = None) -> Prepared:
    """The prepared data that the node `data` names.

    Args:
        settings: recipe, path, dir, vocab_size, block_tokens, seed and workers; perhaps tokenizer
            and chat_template.
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
    """The recipe that the node `data` names, with the tokenizer and chat template that it names.

    Raises:
        ConfigError: the tokenizer or the template is not there.
    """
    recipe, named = load_recipe(settings["recipe"]), settings.get("tokenizer")
    if settings.get("chat_template"):
        recipe = with_template(recipe, settings["chat_template"], named)
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
        ConfigError: it is neither.
    """
    # It is needed for conversations alone.
    from plm.formats.chat import self_contained

    text, beside = named, Path(tokenizer) if tokenizer else None
    if "{" not in named:
        beside = Path(named).expanduser()
        try:
            text = beside.read_text(encoding="utf-8")
        except (OSError, UnicodeDecodeError) as error:
            raise ConfigError(
                f"data.chat_template={named}: neither a template nor a file of one: {error}"
            ) from error
    if beside is not None:
        text = self_contained(text, beside if beside.is_dir() else beside.parent)
    return replace(recipe, chat_template=text)


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
