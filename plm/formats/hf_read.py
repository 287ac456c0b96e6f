"""What a Hugging Face folder holds: weights, and what it says of its tokenizer.

Weights are read whole, and from safetensors only. The folder's code is never run.
"""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from torch import Tensor

from plm.data.tokenizer import END_OF_TEXT
from plm.errors import CheckpointError
from plm.formats.architecture import Architecture
from plm.formats.hf_config import of_config, read_config
from plm.formats.hf_weights import half_split, hf_name, our_name

INDEX = "model.safetensors.index.json"
_PICKLES = ("*.bin", "*.pt", "*.pth", "*.pkl", "*.ckpt")


def files_of(folder: Path) -> list[Path]:
    """The weight files of a folder, all of them there.

    Raises:
        CheckpointError: there are none, some are missing, or there are pickles only.
    """
    index = folder / INDEX
    if index.is_file():
        try:
            names = sorted(
                set(json.loads(index.read_text(encoding="utf-8"))["weight_map"].values())
            )
        except (ValueError, KeyError, AttributeError, TypeError) as error:
            raise CheckpointError(f"{index} is damaged: {error}") from error
        missing = [n for n in names if Path(n).name != n or not (folder / n).is_file()]
        if missing:
            raise CheckpointError(
                f"{folder} is half written: {index.name} names {missing[0]}, which is not there"
            )
        return [folder / name for name in names]
    found = sorted(folder.glob("*.safetensors"))
    if found:
        return found
    pickles = [path.name for kind in _PICKLES for path in folder.glob(kind)]
    if pickles:
        raise CheckpointError(
            f"{folder} has {pickles[0]} in the place of *.safetensors: pickled weights can run "
            "code and are not read; save the model again with safe_serialization"
        )
    raise CheckpointError(f"{folder} is half written: there is no *.safetensors")


def read_weights(folder: Path, wanted: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """A Hugging Face folder's weights under our names, in our order of rotary rows.

    Args:
        folder: with config.json and safetensors, as transformers saves it.
        wanted: our model's state, whose names say what is looked for.
    Returns:
        In the folder's dtype, on the CPU.
    Raises:
        CheckpointError: a file is missing or torn, or the head differs from the embedding that it
            is said to share.
    """
    from safetensors import SafetensorError, safe_open

    config = read_config(folder)
    architecture = of_config(config, folder)
    interleaved = architecture.kind == "plm" and config.get("rope_interleave", True)
    found: dict[str, Tensor] = {}
    for file in files_of(folder):
        try:
            with safe_open(file, "pt") as opened:
                for name in opened.keys():  # noqa: SIM118
                    ours = our_name(name)
                    value = opened.get_tensor(name)
                    if value.dim() and not interleaved:
                        value = half_split(ours, value, architecture, back=True)
                    found[ours] = value
        except (SafetensorError, OSError) as error:
            raise CheckpointError(f"{file} is torn or no safetensors: {error}") from error
    _drop_known(found, wanted, architecture, folder)
    return found


def _drop_known(
    found: dict[str, Tensor],
    wanted: Mapping[str, Tensor],
    architecture: Architecture,
    folder: Path,
) -> None:
    """Take out what files hold beside weights: a tied head, tables of angles."""
    for name in list(found):
        if name.endswith("rotary_emb.inv_freq") and name not in wanted:
            del found[name]
    head, embedding = our_name("lm_head.weight"), "embed_tokens.weight"
    if architecture.tied and head in found and head not in wanted:
        if embedding in found and not found[head].equal(found[embedding]):
            raise CheckpointError(
                f"{folder}: config.json says tie_word_embeddings, but {hf_name(head)} differs from "
                f"{hf_name(embedding)}; set tie_word_embeddings to false there"
            )
        del found[head]


def read_sides(folder: Path) -> tuple[str | None, str | None]:
    """The token that ends a document, and the chat template; None each where it is not said.

    Raises:
        CheckpointError: tokenizer_config.json is damaged.
    """
    file, template = folder / "tokenizer_config.json", folder / "chat_template.jinja"
    try:
        config = json.loads(file.read_text(encoding="utf-8")) if file.is_file() else {}
    except ValueError as error:
        raise CheckpointError(f"{file} cannot be read: {error}") from error
    chat = template.read_text(encoding="utf-8") if template.is_file() else None
    if chat is None and isinstance(config.get("chat_template"), str):
        chat = config["chat_template"]
    end = config.get("eos_token")
    end = end.get("content") if isinstance(end, dict) else end
    # Of a chat model eos_token ends a turn, not a document.
    return (END_OF_TEXT if _special(folder, config, END_OF_TEXT) else end), chat


def _special(folder: Path, config: Mapping[str, Any], token: str) -> bool:
    """Whether a folder's tokenizer has such a special token."""
    tokens = list((config.get("added_tokens_decoder") or {}).values())
    file = folder / "tokenizer.json"
    if not tokens and file.is_file():
        try:
            tokens = json.loads(file.read_text(encoding="utf-8")).get("added_tokens") or []
        except (ValueError, AttributeError) as error:
            raise CheckpointError(f"{file} cannot be read: {error}") from error
    return any(entry.get("content") == token and entry.get("special") for entry in tokens)
