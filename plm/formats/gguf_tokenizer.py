"""A byte-level BPE in GGUF's keys, and whether llama.cpp will read it as the same tokenizer.

What llama.cpp makes of the keys is in its src/llama-vocab.cpp, read at v0.5.0.
"""

import json
import logging
from typing import Any

from tokenizers import Tokenizer, pre_tokenizers

from plm.data.tokenizer import pre_tokenizer_name, pre_tokenizer_parts, special_tokens
from plm.errors import DataError
from plm.formats.common import IM_END, About, end_of_text_id

log = logging.getLogger("plm")

NORMAL, CONTROL, USER_DEFINED, UNUSED = 1, 3, 4, 5
# llama.cpp's name by how text is split, and by whether a word that is a token is never taken
# apart (ignore_merges). "llama-bpe" and "smaug-bpe" split alike and differ in the latter.
PRE = {
    ("qwen2", False): "qwen2",
    ("gpt2", False): "gpt-2",
    ("llama3", True): "llama-bpe",
    ("llama3", False): "smaug-bpe",
    ("smollm", False): "smollm",
}


def keys(tokenizer: Tokenizer, rows: int, about: About) -> dict[str, Any]:
    """Metadata of a tokenizer, by GGUF key.

    Args:
        tokenizer: byte-level.
        rows: of the embedding; those without a token become [PAD<id>].
        about: end_of_text begins a text, ends it and fills rows; chat_template.
    Returns:
        bool, int (u32), str, list[str] and list[int] (i32) values.
    Raises:
        ConfigError: no end-of-text token.
        DataError: llama.cpp would split or merge in another way, or not load it.
    """
    state = json.loads(tokenizer.to_str())["model"]
    _check_model(state)
    _check_normaliser(tokenizer)
    pre = pre_name(tokenizer, bool(state.get("ignore_merges")))
    merges = [m if isinstance(m, str) else " ".join(m) for m in state["merges"]]
    if not merges:
        raise DataError(
            "the tokenizer has no merges, without which llama.cpp loads none; train one with a "
            "larger vocab_size"
        )
    tokens, token_types = _tokens(tokenizer, rows)
    end = end_of_text_id(tokenizer, about)
    found = {
        "tokenizer.ggml.model": "gpt2",
        "tokenizer.ggml.pre": pre,
        "tokenizer.ggml.tokens": tokens,
        "tokenizer.ggml.token_type": token_types,
        "tokenizer.ggml.merges": merges,
        # llama.cpp takes id 11 where these are missing.
        "tokenizer.ggml.bos_token_id": end,
        "tokenizer.ggml.eos_token_id": end,
        "tokenizer.ggml.padding_token_id": end,
        # "llama-bpe" alone would switch it on, and training puts none before a text.
        "tokenizer.ggml.add_bos_token": False,
    }
    if IM_END in special_tokens(tokenizer):
        found["tokenizer.ggml.eot_token_id"] = tokenizer.token_to_id(IM_END)
    if about.chat_template is not None:
        found["tokenizer.chat_template"] = about.chat_template
    return found


def pre_name(tokenizer: Tokenizer, ignore_merges: bool) -> str:
    """llama.cpp's name for how the tokenizer splits text.

    Raises:
        DataError: it has none.
    """
    name = pre_tokenizer_name(tokenizer) or ("smollm" if _splits_as_smollm(tokenizer) else None)
    if name is None:
        raise DataError(
            "the tokenizer splits text in a way that llama.cpp is not known to have; known: "
            f"{', '.join(dict.fromkeys(name for name, _ in PRE))}"
        )
    if (name, ignore_merges) not in PRE:
        raise DataError(
            f"the tokenizer has ignore_merges={str(ignore_merges).lower()}, which llama.cpp does "
            f"not have where text is split as {name} does; only llama3 leaves the choice"
        )
    return PRE[name, ignore_merges]


def _splits_as_smollm(tokenizer: Tokenizer) -> bool:
    """Digits one by one, then the library's byte-level splitter, which is GPT-2's."""
    parts = pre_tokenizer_parts(tokenizer)
    if [part["type"] for part in parts] != ["Digits", "ByteLevel"]:
        return False
    digits, bytes_ = parts
    return digits["individual_digits"] and bytes_["use_regex"] and not bytes_["add_prefix_space"]


def _check_model(state: dict[str, Any]) -> None:
    """state: the tokenizer's `model` in its tokenizer.json."""
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    if state["type"] != "BPE" or not all(byte in state["vocab"] for byte in alphabet):
        raise DataError(
            "the tokenizer is not a byte-level BPE with all 256 bytes, the one kind that is "
            "written to GGUF here"
        )
    for setting in ("dropout", "continuing_subword_prefix", "end_of_word_suffix"):
        if state.get(setting):
            raise DataError(
                f"the tokenizer has {setting}={state[setting]!r}, which llama.cpp does not know"
            )


def _check_normaliser(tokenizer: Tokenizer) -> None:
    if tokenizer.normalizer is None:
        return
    state = json.loads(tokenizer.normalizer.__getstate__())
    kinds = [part["type"] for part in state.get("normalizers", [state])]
    other = [kind for kind in kinds if kind != "NFC"]
    if other:
        raise DataError(
            f"the tokenizer has a normaliser ({', '.join(other)}), which llama.cpp would not "
            "apply; train with a tokenizer without one"
        )
    if kinds:
        log.warning(
            "the tokenizer composes letters first (NFC) and llama.cpp does not: text with "
            "decomposed letters gets other ids there"
        )


def _tokens(tokenizer: Tokenizer, rows: int) -> tuple[list[str], list[int]]:
    """The spelling and the type of each row."""
    tokens = [f"[PAD{index}]" for index in range(rows)]
    token_types = [UNUSED] * rows
    for token, index in tokenizer.get_vocab(with_added_tokens=False).items():
        tokens[index], token_types[index] = token, NORMAL
    trimmed = []
    for index, token in tokenizer.get_added_tokens_decoder().items():
        tokens[index] = token.content
        token_types[index] = CONTROL if token.special else USER_DEFINED
        if token.lstrip or token.rstrip or token.single_word:
            trimmed.append(token.content)
    if trimmed:
        log.warning(
            "llama.cpp does not know lstrip, rstrip and single_word, which the tokenizer has for "
            "%s: text around them may get other ids there",
            ", ".join(trimmed[:8]) + (", …" if len(trimmed) > 8 else ""),
        )
    _check_spellings(tokens)
    return tokens, token_types


def _check_spellings(tokens: list[str]) -> None:
    first: dict[str, int] = {}
    for index, token in enumerate(tokens):
        # llama.cpp ends the process on two tokens of one spelling.
        if first.setdefault(token, index) != index:
            raise DataError(
                f"the tokenizer's ids {first[token]} and {index} are both spelt {token!r}, which "
                "llama.cpp cannot load"
            )
