"""Open a configuration's data, preparing it first where that has not been done."""

from collections.abc import Callable, Mapping
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
        settings: recipe, path, dir, vocab_size, block_tokens, seed and workers.
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
    """The recipe that the node `data` names, with the tokenizer that it names.

    Raises:
        ConfigError: the tokenizer is not there.
    """
    recipe, named = load_recipe(settings["recipe"]), settings.get("tokenizer")
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
