"""Existing tokenizers: checked, perhaps given more special tokens, and kept as a tokenizer.json."""

from __future__ import annotations

import json
import logging
from pathlib import Path
from typing import TYPE_CHECKING

from plm.data import tokenizer as bpe
from plm.errors import ConfigError, DataError, Unfinished

if TYPE_CHECKING:
    from tokenizers import Tokenizer

    from plm.data.recipe import TokenizerSettings

log = logging.getLogger("plm")


def adopt(settings: TokenizerSettings, target: Path, vocab_size: int | None = None) -> int:
    """Write the existing tokenizer that the settings name as a tokenizer.json.

    Args:
        settings: with `file` or `hub`.
        target: where tokenizer.json is written, whole or not at all.
        vocab_size: ids asked for; None takes as many as there are.
    Returns:
        Ids, holes included: the largest id and one.
    Raises:
        ConfigError: it has no such end_of_text, or more ids than asked for.
        DataError: it is no tokenizer, or is not a byte-level BPE.
        Unfinished: the Hub does not give it.
    """
    where = settings.file or settings.hub
    tokenizer = existing(settings)
    _check_byte_level(tokenizer, str(where))
    bpe.end_of_text(settings, tokenizer)
    extend(tokenizer, settings.new_tokens)
    n_ids = bpe.size(tokenizer)
    if vocab_size is not None and n_ids > vocab_size:
        raise ConfigError(
            f"vocab_size={vocab_size} is too small: {where} has {n_ids} ids; a new model takes "
            f"vocab_size={n_ids} or more, and one that a run begins from (init_from) keeps its own "
            "tokenizer: data.tokenizer=init_from"
        )
    if tokenizer.normalizer is not None:
        kind = json.loads(tokenizer.normalizer.__getstate__())["type"]
        told = "%s has a normaliser (%s): text may come back changed, and GGUF cannot carry it"
        log.warning(told, where, kind)
    bpe.save(tokenizer, target)
    return n_ids


def existing(settings: TokenizerSettings) -> Tokenizer:
    """Load the tokenizer that `file` or `hub` names, of any kind.

    Raises:
        DataError: it is no tokenizer.
        Unfinished: the Hub does not give it.
    """
    tokenizer = bpe.load(settings.file) if settings.file else _from_hub(settings)
    # Both would change a document's ids: one would cut it, the other fill it up.
    tokenizer.no_truncation()
    tokenizer.no_padding()
    return tokenizer


def _from_hub(settings: TokenizerSettings) -> Tokenizer:
    from tokenizers import Tokenizer
    from transformers import AutoTokenizer

    where = f"tokenizer.hub={settings.hub} (revision {settings.revision})"
    try:
        loaded = AutoTokenizer.from_pretrained(settings.hub, revision=settings.revision)
    # Network, files and classes each fail with errors of their own.
    except Exception as error:
        first = (str(error).splitlines() or [type(error).__name__])[0]
        raise Unfinished(f"{where} cannot be loaded: {first}") from error
    if not hasattr(loaded, "backend_tokenizer"):
        raise DataError(f"{where} has no tokenizer.json, which is needed here")
    return Tokenizer.from_str(loaded.backend_tokenizer.to_str())


def _check_byte_level(tokenizer: Tokenizer, where: str) -> None:
    from tokenizers import models, pre_tokenizers

    complete = all(
        tokenizer.token_to_id(c) is not None for c in pre_tokenizers.ByteLevel.alphabet()
    )
    parts = [part["type"] for part in bpe.pre_tokenizer_parts(tokenizer)]
    if not isinstance(tokenizer.model, models.BPE) or "ByteLevel" not in parts or not complete:
        raise DataError(
            f"{where}: not a byte-level BPE with all 256 bytes (GPT-2's, Llama 3's and Qwen2's "
            "are); others would lose text, and bits per byte could not be counted"
        )
    if tokenizer.model.dropout:
        raise DataError(f"{where}: dropout={tokenizer.model.dropout} makes ids a matter of chance")


def extend(tokenizer: Tokenizer, tokens: list[str]) -> None:
    """Add special tokens behind the others; those that are there already stay as they are.

    Raises:
        ConfigError: one is an ordinary token there.
    """
    from tokenizers import AddedToken

    special = set(bpe.special_tokens(tokenizer))
    for token in tokens:
        if token not in special and tokenizer.token_to_id(token) is not None:
            raise ConfigError(f"tokenizer.new_tokens: {token} is an ordinary token already")
    fresh = [token for token in tokens if token not in special]
    tokenizer.add_special_tokens([AddedToken(t, special=True, normalized=False) for t in fresh])
