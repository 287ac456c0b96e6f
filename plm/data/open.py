"""Open a configuration's data, preparing it first where that has not been done."""

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from plm.data.prepare import is_prepared, prepare
from plm.data.prepared import Prepared
from plm.data.recipe import load_recipe

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
        load_recipe(settings["recipe"]),
        data_dir=Path(settings["dir"]),
        vocab_size=settings["vocab_size"],
        block_tokens=settings["block_tokens"],
        seed=settings["seed"],
        workers=settings["workers"],
        progress=progress if rank == 0 else None,
        path=settings["path"],
    )


def find_data(settings: Mapping[str, Any]) -> Path | None:
    """The folder of the data that the node `data` names, if they were prepared before."""
    return is_prepared(
        load_recipe(settings["recipe"]),
        data_dir=Path(settings["dir"]),
        vocab_size=settings["vocab_size"],
        block_tokens=settings["block_tokens"],
        seed=settings["seed"],
        path=settings["path"],
    )
