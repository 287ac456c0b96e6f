"""A Hugging Face folder, which transformers and what is built on it load.

Llama, Qwen2 and Qwen3 are loaded by transformers' own classes; PLM, which transformers does not
know, by two Python files that go into the folder (trust_remote_code).
"""

import logging
import shutil
from collections.abc import Mapping
from pathlib import Path

import torch
from tokenizers import Tokenizer
from torch import Tensor, nn

from plm.errors import CheckpointError, ConfigError
from plm.formats.architecture import Architecture, of_model, weights_of
from plm.formats.card import card
from plm.formats.common import About, check_tokenizer, whole
from plm.formats.hf_config import PLM_FILES, to_config
from plm.formats.hf_read import INDEX
from plm.formats.hf_tokenizer import (
    auto_tokenizer_differs,
    token_ids,
    write_json,
    write_tokenizer,
)
from plm.formats.hf_weights import hf_name, to_hf

log = logging.getLogger("plm")

DTYPES = {"float32": torch.float32, "bfloat16": torch.bfloat16, "float16": torch.float16}


def hf(
    model: nn.Module,
    tokenizer: Tokenizer | None,
    folder: Path,
    *,
    about: About,
    dtype: str = "float32",
    max_shard_bytes: int = 5_000_000_000,
) -> Path:
    """Write the model as a Hugging Face folder, whole or not at all.

    Memory holds one file's weights besides the model, where they are cast or moved.

    Args:
        model: of any floating dtype and on any device; it stays as it is.
        tokenizer: byte-level; None: a folder without one.
        folder: must not exist.
        about: what goes along.
        dtype: of the weights: float32, bfloat16 or float16.
        max_shard_bytes: weights in one file at most; a larger tensor has a file of its own.
    Returns:
        The folder.
    Raises:
        ConfigError: the model, a setting or the folder cannot be; before anything is written.
        DataError: the tokenizer has ids that the embedding has no row for.
        CheckpointError: a weight is no finite number.
    """
    if dtype not in DTYPES:
        raise ConfigError(f"dtype={dtype} is not one of {', '.join(DTYPES)}")
    if max_shard_bytes < 1:
        raise ConfigError(f"max_shard_bytes={max_shard_bytes} must be a positive number of bytes")
    architecture = of_model(model, about.rope_theta)
    if tokenizer is not None:
        check_tokenizer(tokenizer, architecture.vocab_size)
    weights = weights_of(model)
    config = {**to_config(architecture, dtype), **token_ids(tokenizer, about)}
    loader = _tokenizer_class(tokenizer, architecture.kind)
    parameters = sum(tensor.numel() for tensor in weights.values())
    readme = card(architecture, about, parameters=parameters, dtype=dtype, tokenizer_class=loader)
    with whole(folder) as partial:
        partial.mkdir()
        _write_weights(partial, weights, architecture, DTYPES[dtype], max_shard_bytes)
        write_json(partial / "config.json", config)
        if tokenizer is not None:
            write_tokenizer(tokenizer, partial, about, architecture.max_position_embeddings)
        if architecture.kind == "plm":
            for name in ("configuration_plm.py", "modeling_plm.py"):
                shutil.copyfile(PLM_FILES / name, partial / name)
        (partial / "README.md").write_text(readme, encoding="utf-8")
    return folder


def _tokenizer_class(tokenizer: Tokenizer | None, kind: str) -> str | None:
    """Which of transformers' classes loads the tokenizer as it is; None: there is none."""
    if tokenizer is None:
        return None
    if not auto_tokenizer_differs(tokenizer, kind):
        return "AutoTokenizer"
    log.warning(
        "AutoTokenizer of newer transformers splits text of every qwen2 folder as Qwen2 does; "
        "PreTrainedTokenizerFast.from_pretrained takes this one's tokenizer.json as it is"
    )
    return "PreTrainedTokenizerFast"


def _write_weights(
    folder: Path,
    weights: Mapping[str, Tensor],
    architecture: Architecture,
    dtype: torch.dtype,
    max_shard_bytes: int,
) -> None:
    from huggingface_hub import split_torch_state_dict_into_shards
    from safetensors import SafetensorError
    from safetensors.torch import save_file

    ours = {hf_name(name): name for name in weights}
    # Sizes alone, so that the weights are cast one file at a time.
    sizes = {
        name: torch.empty(weights[mine].shape, dtype=dtype, device="meta")
        for name, mine in ours.items()
    }
    split = split_torch_state_dict_into_shards(sizes, max_shard_size=max_shard_bytes)
    for file, names in split.filename_to_tensors.items():
        part = {ours[name]: weights[ours[name]] for name in names}
        found = {name: _cast(ours[name], value, dtype) for name, value in to_hf(part, architecture)}
        try:
            save_file(found, folder / file, metadata={"format": "pt"})
        except SafetensorError as error:
            # A full disk comes as this; `whole` tells of OSError.
            raise OSError(str(error)) from error
    if split.is_sharded:
        index = {"metadata": split.metadata, "weight_map": split.tensor_to_filename}
        write_json(folder / INDEX, index)


def _cast(name: str, value: Tensor, dtype: torch.dtype) -> Tensor:
    value = value.detach()
    if not value.isfinite().all():
        raise CheckpointError(f"{name} holds NaN or infinity; such a model cannot be used")
    cast = value.to("cpu", dtype).contiguous()
    if not cast.isfinite().all():
        raise ConfigError(f"{name} has weights too large for {dtype}; take dtype=bfloat16")
    return cast
