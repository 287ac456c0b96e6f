"""A tokenizer's files in a Hugging Face folder."""

import json
from pathlib import Path
from typing import Any

from tokenizers import Tokenizer

from plm.data import tokenizer as tokenizers_here
from plm.formats.common import IM_END, About, end_of_text_id


def token_ids(tokenizer: Tokenizer | None, about: About) -> dict[str, int | None]:
    """bos, eos and pad of config.json: the token that ends a document is all three.

    Training puts nothing else between documents, so the model knows no other. Without a tokenizer
    they are None, since transformers' classes would take ids of their own.
    """
    end = None if tokenizer is None else end_of_text_id(tokenizer, about)
    return {"bos_token_id": end, "eos_token_id": end, "pad_token_id": end}


def generation_config(tokenizer: Tokenizer, about: About) -> dict[str, Any]:
    """generation_config.json: what ends a text; a length is left to the caller."""
    end = end_of_text_id(tokenizer, about)
    stops = [end]
    if IM_END in tokenizers_here.special_tokens(tokenizer):
        stops.append(tokenizer.token_to_id(IM_END))
    return {
        "bos_token_id": end,
        "eos_token_id": list(dict.fromkeys(stops)),
        "pad_token_id": end,
    }


def tokenizer_config(tokenizer: Tokenizer, about: About, model_max_length: int) -> dict[str, Any]:
    """tokenizer_config.json; the class named there takes tokenizer.json as it is.

    Args:
        tokenizer: byte-level.
        about: names the token that ends a document.
        model_max_length: tokens.
    """
    end = tokenizer.id_to_token(end_of_text_id(tokenizer, about))
    others = [name for name in tokenizers_here.special_tokens(tokenizer) if name != end]
    return {
        "tokenizer_class": "PreTrainedTokenizerFast",
        "model_max_length": model_max_length,
        "bos_token": end,
        "eos_token": end,
        "pad_token": end,
        # Some classes have one unless told otherwise, and would add it to the vocabulary.
        "unk_token": None,
        # Not extra_special_tokens: transformers 4 takes a mapping there and 5 a list.
        "additional_special_tokens": others,
        "clean_up_tokenization_spaces": False,
        "added_tokens_decoder": {
            str(index): {
                "content": token.content,
                "lstrip": token.lstrip,
                "normalized": token.normalized,
                "rstrip": token.rstrip,
                "single_word": token.single_word,
                "special": token.special,
            }
            for index, token in sorted(tokenizer.get_added_tokens_decoder().items())
        },
    }


def auto_tokenizer_differs(tokenizer: Tokenizer, kind: str) -> bool:
    """Does transformers' AutoTokenizer make another tokenizer of such a folder?

    Of a folder with model_type qwen2 it takes vocabulary and merges alone and splits text as Qwen2
    does, after NFC, whatever tokenizer.json and tokenizer_config.json say (seen in 5.23.0; 4.57.6
    and 5.0.0 do not). PreTrainedTokenizerFast takes the file as it is.
    """
    if kind != "qwen2":
        return False
    state = json.loads(tokenizer.to_str())
    return (
        tokenizers_here.pre_tokenizer_name(tokenizer) != "qwen2"
        or (state["normalizer"] or {}).get("type") != "NFC"
        or bool(state["model"].get("ignore_merges"))
    )


def write_tokenizer(tokenizer: Tokenizer, folder: Path, about: About, max_length: int) -> None:
    """Write all files of a tokenizer into a folder that is there.

    Raises:
        ConfigError: the tokenizer has no token that ends a document.
    """
    tokenizers_here.save(tokenizer, folder / "tokenizer.json")
    for name, content in (
        ("tokenizer_config.json", tokenizer_config(tokenizer, about, max_length)),
        ("generation_config.json", generation_config(tokenizer, about)),
    ):
        write_json(folder / name, content)
    if about.chat_template is not None:
        (folder / "chat_template.jinja").write_text(about.chat_template, encoding="utf-8")


def write_json(path: Path, content: dict[str, Any]) -> None:
    """Write it as people read it."""
    path.write_text(json.dumps(content, indent=2, ensure_ascii=False) + "\n", encoding="utf-8")
