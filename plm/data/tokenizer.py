"""Byte-level BPE: trained here or adopted, saved as a tokenizer.json that any library can read.

Paper: Sennrich et al., Neural machine translation of rare words with subword units
(arXiv:1508.07909); bytes as the alphabet: Radford et al., GPT-2 (2019).
No normaliser: GGUF cannot carry one, and text has to come back byte for byte.
"""

from __future__ import annotations

import json
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

    from plm.data.recipe import TokenizerSettings

END_OF_TEXT = "<|endoftext|>"
"""Ends every document, where a recipe names no other."""

_BY_DIGITS = (
    r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}%s| ?[^\s\p{L}\p{N}]+[\r\n]*"
    r"|\s*[\r\n]+|\s+(?!\S)|\s+"
)
PATTERNS = {
    "qwen2": _BY_DIGITS % "",
    "gpt2": (r"'s|'t|'re|'ve|'m|'ll|'d| ?\p{L}+| ?\p{N}+| ?[^\s\p{L}\p{N}]+|\s+(?!\S)|\s+"),
    "llama3": _BY_DIGITS % "{1,3}",
}
"""Published split patterns: contractions, words, digits, punctuation, white space.

Digits stand alone for qwen2, in threes at most for llama3, in runs of any length for gpt2. GGUF
carries them as "qwen2", "gpt-2" and "llama-bpe".
"""

_ALPHABET = 256
_MOST_WORDS = 500_000
_CONTROL = re.compile(r"[\x00-\x08\x0b\x0c\x0e-\x1f\x7f]")


def train(
    texts: Iterable[str],
    *,
    vocab_size: int,
    special_tokens: list[str],
    pre_tokenizer: str = "qwen2",
) -> Tokenizer:
    """Train on the texts; the same texts in the same order give the same tokenizer.

    Args:
        texts: the sample.
        vocab_size: ids at most, special tokens and the 256 bytes included.
        special_tokens: get the ids from 0, in this order.
        pre_tokenizer: a key of PATTERNS.
    Raises:
        ConfigError: vocab_size does not even hold the bytes and the special tokens.
    """
    from tokenizers import Regex, Tokenizer, decoders, models, pre_tokenizers, trainers

    check_size(vocab_size, special_tokens)
    # llama.cpp takes a word that is a token as this token wherever it splits as Llama 3 does.
    whole = {"ignore_merges": True} if pre_tokenizer == "llama3" else {}
    tokenizer = Tokenizer(models.BPE(byte_fallback=False, **whole))
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence(
        [
            pre_tokenizers.Split(Regex(PATTERNS[pre_tokenizer]), behavior="isolated"),
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


def check_size(vocab_size: int, special_tokens: list[str]) -> None:
    """Raise ConfigError where the bytes and the special tokens have no room."""
    least = _ALPHABET + len(special_tokens)
    if vocab_size < least:
        raise ConfigError(
            f"vocab_size={vocab_size} is too small: 256 bytes and {len(special_tokens)} special "
            f"tokens need {least}"
        )


def end_of_text(settings: TokenizerSettings, tokenizer: Tokenizer) -> str:
    """The special token that ends a document: the one that the settings name, or the first.

    Raises:
        ConfigError: the tokenizer has no such special token.
    """
    special = special_tokens(tokenizer)
    where = settings.file or settings.hub or "the tokenizer"
    if not special:
        raise ConfigError(f"{where} has no special token; tokenizer.end_of_text must name one")
    name = settings.end_of_text or special[0]
    if name in special:
        return name
    known = ", ".join(special[:8]) + (", …" if len(special) > 8 else "")
    lacks = "is an ordinary token of" if tokenizer.token_to_id(name) is not None else "is not in"
    raise ConfigError(f"tokenizer.end_of_text={name} {lacks} {where}; its special tokens: {known}")


def special_tokens(tokenizer: Tokenizer) -> list[str]:
    """The special tokens in the order of their ids."""
    added = sorted(tokenizer.get_added_tokens_decoder().items())
    return [token.content for _, token in added if token.special]


def size(tokenizer: Tokenizer) -> int:
    """Rows that a model needs for it: the largest id and one."""
    return max(tokenizer.get_vocab(with_added_tokens=True).values(), default=-1) + 1


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
    lengths = np.zeros(max(size(tokenizer), vocab_size or 0), dtype=np.int32)
    for token, index in tokenizer.get_vocab(with_added_tokens=False).items():
        # The byte-level alphabet writes each byte as one character.
        lengths[index] = len(token)
    for index, token in tokenizer.get_added_tokens_decoder().items():
        lengths[index] = 0 if token.special else len(token.content.encode())
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


def pre_tokenizer_name(tokenizer: Tokenizer) -> str | None:
    """Which of PATTERNS the tokenizer splits by; None for any other way."""
    parts = pre_tokenizer_parts(tokenizer)
    last = parts[-1] if parts else {}
    if last.get("type") != "ByteLevel" or last["add_prefix_space"]:
        return None
    if len(parts) == 1:
        # The library's own pattern is GPT-2's.
        return "gpt2" if last["use_regex"] else None
    split = parts[0]
    plain = split.get("behavior") == "Isolated" and not split.get("invert")
    if len(parts) > 2 or split["type"] != "Split" or not plain or last["use_regex"]:
        return None
    names = {pattern: name for name, pattern in PATTERNS.items()}
    return names.get(split["pattern"].get("Regex"))


def pre_tokenizer_parts(tokenizer: Tokenizer) -> list[dict]:
    """The steps that split a text before the merges, as tokenizer.json writes them."""
    if tokenizer.pre_tokenizer is None:
        return []
    state = json.loads(tokenizer.pre_tokenizer.__getstate__())
    return state["pretokenizers"] if state["type"] == "Sequence" else [state]


def _word_by_word(tokenizer: Tokenizer) -> bool:
    """Whether a text's ids are those of its words: nothing acts before, across or after them."""
    from tokenizers import models

    added = tokenizer.get_added_tokens_decoder().values()
    post = tokenizer.post_processor
    return (
        (post is None or _adds_only(json.loads(post.__getstate__())))
        and tokenizer.normalizer is None
        and tokenizer.truncation is None
        and tokenizer.padding is None
        and isinstance(tokenizer.model, models.BPE)
        and not tokenizer.model.dropout
        and all(token.special for token in added)
    )


def _adds_only(post: dict) -> bool:
    """Whether a post-processor adds special tokens at most, which are not asked for here."""
    if post["type"] == "Sequence":
        return all(map(_adds_only, post["processors"]))
    if post["type"] == "TemplateProcessing":
        return sum("Sequence" in piece for piece in post["single"]) == 1
    return post["type"] == "ByteLevel"


class Encoder:
    """Fast twin of `encode_batch`, with the same result.

    The library's regular expressions take most of its time, and a text has few different words:
    plain ASCII is split by the `regex` package, and each word is encoded once. Other text goes the
    library's way, since the two may know different versions of Unicode; so does all text where the
    tokenizer splits by none of PATTERNS, or does more than split and merge.

    Args:
        tokenizer: byte-level.
        vocab_size: ids that may come out; None for all that the tokenizer has.
    Attributes:
        fast: whether plain ASCII goes the fast way.
    """

    def __init__(self, tokenizer: Tokenizer, vocab_size: int | None = None) -> None:
        import regex

        self.tokenizer = tokenizer
        name = pre_tokenizer_name(tokenizer)
        self.fast = name is not None and _word_by_word(tokenizer)
        self._split = regex.compile(PATTERNS[name]).findall if name is not None else None
        self._limit = vocab_size if vocab_size and size(tokenizer) > vocab_size else None
        self._ids: dict[str, list[int]] = {}

    def encode_batch(self, texts: list[str]) -> list[np.ndarray]:
        """Ids of each text, int32.

        Raises:
            DataError: an id is vocab_size or more.
        """
        if self.fast:
            hard = [i for i, t in enumerate(texts) if not t.isascii() or _CONTROL.search(t)]
            slow = encode_batch(self.tokenizer, [texts[i] for i in hard])
            found = dict(zip(hard, slow, strict=True))
            results = [found[i] if i in found else self._plain(t) for i, t in enumerate(texts)]
        else:
            results = encode_batch(self.tokenizer, texts)
        if self._limit is not None:
            self._check(results)
        return results

    def _check(self, results: list[np.ndarray]) -> None:
        largest = max((int(ids.max()) for ids in results if len(ids)), default=0)
        if largest >= self._limit:
            raise DataError(
                f"the text has token {largest} ({self.tokenizer.id_to_token(largest)!r}), but "
                f"vocab_size={self._limit}; set vocab_size={size(self.tokenizer)} or more"
            )

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
