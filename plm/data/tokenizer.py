"""Byte-level BPE: trained here, saved as one tokenizer.json that any library can read.

Paper: Sennrich et al., Neural machine translation of rare words with subword units
(arXiv:1508.07909); bytes as the alphabet: Radford et al., GPT-2 (2019).
No normaliser: GGUF cannot carry one, and text has to come back byte for byte.
"""

from __future__ import annotations

import os
import re
from collections.abc import Iterable, Iterator
from itertools import chain
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from plm.errors import ConfigError, DataError

if TYPE_CHECKING:
    from tokenizers import Tokenizer

END_OF_TEXT = "<|endoftext|>"
"""Ends every document."""

QWEN2_PATTERN = (
    r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}| ?[^\s\p{L}\p{N}]+[\r\n]*"
    r"|\s*[\r\n]+|\s+(?!\S)|\s+"
)
"""Qwen2's pre-tokeniser: contractions, words, digits one by one, punctuation, white space."""

_ALPHABET = 256
_MOST_WORDS = 500_000
_CONTROL = re.compile(r"[\x00-\x08\x0b\x0c\x0e-\x1f\x7f]")


def train(texts: Iterable[str], *, vocab_size: int, special_tokens: list[str]) -> Tokenizer:
    """Train on the texts; the same texts in the same order give the same tokenizer.

    Args:
        texts: the sample.
        vocab_size: ids at most, special tokens and the 256 bytes included.
        special_tokens: get the ids from 0, in this order.
    Raises:
        ConfigError: vocab_size does not even hold the bytes and the special tokens.
    """
    from tokenizers import Regex, Tokenizer, decoders, models, pre_tokenizers, trainers

    least = _ALPHABET + len(special_tokens)
    if vocab_size < least:
        raise ConfigError(
            f"vocab_size={vocab_size} is too small: 256 bytes and {len(special_tokens)} special "
            f"tokens need {least}"
        )
    tokenizer = Tokenizer(models.BPE(byte_fallback=False))
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence(
        [
            pre_tokenizers.Split(Regex(QWEN2_PATTERN), behavior="isolated"),
            pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False),
        ]
    )
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=vocab_size,
        special_tokens=list(special_tokens),
        initial_alphabet=sorted(pre_tokenizers.ByteLevel.alphabet()),
        show_progress=False,
    )
    tokenizer.train_from_iterator(iter(texts), trainer)
    return tokenizer


def save(tokenizer: Tokenizer, path: Path) -> None:
    """Write tokenizer.json, whole or not at all."""
    partial = path.with_name(path.name + ".partial")
    partial.write_text(tokenizer.to_str(pretty=True) + "\n", encoding="utf-8")
    os.replace(partial, path)


def load(path: Path | str) -> Tokenizer:
    """Read a tokenizer.json.

    Raises:
        DataError: the file is missing or is not a tokenizer.
    """
    from tokenizers import Tokenizer

    if not Path(path).is_file():
        raise DataError(f"{path}: no such tokenizer file")
    try:
        return Tokenizer.from_str(Path(path).read_text(encoding="utf-8"))
    # The library raises nothing narrower than Exception for a file it cannot read.
    except Exception as error:
        raise DataError(f"{path}: not a tokenizer.json: {error}") from error


def token_bytes(tokenizer: Tokenizer, vocab_size: int | None = None) -> np.ndarray:
    """Bytes of UTF-8 that each id stands for; 0 for special and unused ids, for bits per byte.

    Args:
        tokenizer: byte-level.
        vocab_size: length of the result, where it exceeds the tokenizer's own.
    Returns:
        [V] int32.
    """
    size = tokenizer.get_vocab_size(with_added_tokens=True)
    lengths = np.zeros(max(size, vocab_size or 0), dtype=np.int32)
    special = set(tokenizer.get_added_tokens_decoder())
    for token, index in tokenizer.get_vocab(with_added_tokens=True).items():
        # The byte-level alphabet writes each byte as one character.
        lengths[index] = 0 if index in special else len(token)
    return lengths


def encode_batch(tokenizer: Tokenizer, texts: list[str]) -> list[np.ndarray]:
    """Ids of each text, int32; text that reads like a special token is text, never that token."""
    before = tokenizer.encode_special_tokens
    tokenizer.encode_special_tokens = True
    try:
        encodings = tokenizer.encode_batch_fast(texts, add_special_tokens=False)
    finally:
        tokenizer.encode_special_tokens = before
    return [np.asarray(encoding.ids, dtype=np.int32) for encoding in encodings]


class Encoder:
    """Fast twin of `encode_batch` for tokenizers that `train` made, with the same result.

    The library's regular expressions take most of its time, and a text has few different words:
    plain ASCII is split by the `regex` package, and each word is encoded once. Other text goes the
    library's way, since the two may know different versions of Unicode.

    Args:
        tokenizer: made by `train`: its pre-tokeniser is QWEN2_PATTERN.
    """

    def __init__(self, tokenizer: Tokenizer) -> None:
        import regex

        self.tokenizer = tokenizer
        self._split = regex.compile(QWEN2_PATTERN).findall
        self._ids: dict[str, list[int]] = {}

    def encode_batch(self, texts: list[str]) -> list[np.ndarray]:
        """Ids of each text, int32."""
        hard = [i for i, text in enumerate(texts) if not text.isascii() or _CONTROL.search(text)]
        slow = encode_batch(self.tokenizer, [texts[i] for i in hard])
        results = dict(zip(hard, slow, strict=True))
        return [results[i] if i in results else self._plain(t) for i, t in enumerate(texts)]

    def _plain(self, text: str) -> np.ndarray:
        words = self._split(text)
        if len(self._ids) > _MOST_WORDS:
            self._ids.clear()
        fresh = [word for word in dict.fromkeys(words) if word not in self._ids]
        for word, ids in zip(fresh, encode_batch(self.tokenizer, fresh), strict=True):
            self._ids[word] = ids.tolist()
        found = chain.from_iterable(map(self._ids.__getitem__, words))
        return np.fromiter(found, dtype=np.int32)


def sample(sizes: dict[str, int], weights: dict[str, float], budget: int) -> dict[str, int]:
    """Bytes to take from each source, so that the sample has the weights as far as texts reach.

    Args:
        sizes: bytes that each source has.
        weights: its share, relative to the others.
        budget: bytes in all, at most.
    Raises:
        ConfigError: the weights sum to nothing.
    """
    total = sum(weights.values())
    if total <= 0:
        raise ConfigError("tokenizer_weight is 0 in every source; give one of them a weight")
    return {name: min(size, int(budget * weights[name] / total)) for name, size in sizes.items()}


def cut(texts: Iterable[str], budget: int) -> Iterator[str]:
    """The texts until `budget` characters are out; the last one cut."""
    for text in texts:
        if budget <= 0:
            return
        yield text[:budget]
        budget -= len(text)
