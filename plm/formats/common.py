"""What all formats share: what is known beside the weights, and a target written whole."""

import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from tokenizers import Tokenizer

from plm.data import tokenizer as tokenizers_here
from plm.errors import ConfigError, DataError

IM_START, IM_END = "<|im_start|>", "<|im_end|>"


@dataclass(frozen=True)
class About:
    """What an export says beside the weights.

    Attributes:
        name: of the model, for people.
        end_of_text: the token that ends a document; None: the tokenizer's first special one.
        rope_theta: rotary base that the last phase set; None: the model's own.
        run: the run's folder, for the model card.
        chat_template: Jinja; None: the model knows no conversations.
    """

    name: str = "plm"
    end_of_text: str | None = None
    rope_theta: float | None = None
    run: Path | None = None
    chat_template: str | None = None


def end_of_text_id(tokenizer: Tokenizer, about: About) -> int:
    """Id of the token that ends a document.

    Raises:
        ConfigError: the tokenizer has no special token, or not the named one.
    """
    special = tokenizers_here.special_tokens(tokenizer)
    name = about.end_of_text or next(iter(special), None)
    found = tokenizer.token_to_id(name) if name is not None else None
    if found is None:
        raise ConfigError(f"the tokenizer has no end-of-text token {name!r}; it has {special[:8]}")
    return found


def check_tokenizer(tokenizer: Tokenizer, vocab_size: int, where: Path | None = None) -> None:
    """Refuse a tokenizer with ids that the embedding has no row for.

    Args:
        tokenizer: of the model.
        vocab_size: rows of the embedding.
        where: the folder of both, for the message.
    Raises:
        DataError: says both sizes.
    """
    size = tokenizers_here.size(tokenizer)
    if size > vocab_size:
        raise DataError(
            f"{where}: " * bool(where) + f"the tokenizer has {size} ids and the embedding "
            f"{vocab_size} rows: they do not belong together"
        )


@contextmanager
def whole(target: Path, instead: str = "give another out=…") -> Iterator[Path]:
    """A path to write a file or folder at, that becomes `target` once the block ends well.

    Args:
        target: where it will be.
        instead: what else the user can do where something is there already.
    Raises:
        ConfigError: `target` is there already, or cannot be written.
    """
    if target.exists():
        raise ConfigError(f"{target} exists already; remove it, or {instead}")
    partial = target.with_name(f".{target.name}.partial")
    try:
        target.parent.mkdir(parents=True, exist_ok=True)
        remove(partial)
        yield partial
        os.replace(partial, target)
    except OSError as error:
        raise ConfigError(f"{target} cannot be written: {error.strerror or error}") from error
    finally:
        remove(partial)


def remove(path: Path) -> None:
    """Delete a file or folder, if it is there."""
    if path.is_dir():
        shutil.rmtree(path, ignore_errors=True)
    else:
        path.unlink(missing_ok=True)
