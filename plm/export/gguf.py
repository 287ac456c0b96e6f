"""One GGUF file, which llama.cpp and what is built on it run.

Architectures `plm`, `llama`, `qwen2` and `qwen3`; what llama.cpp asks of each is in its
src/llama-model.cpp and src/models, read at v0.5.0.
"""

import re
from collections.abc import Iterator, Mapping
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import torch
from tokenizers import Tokenizer
from torch import Tensor, nn

from plm.data.pool import cores
from plm.errors import CheckpointError, ConfigError
from plm.formats import gguf_tokenizer
from plm.formats.architecture import Architecture, of_model, weights_of
from plm.formats.common import About, check_tokenizer, whole
from plm.formats.hf_weights import half_split

# Written here; all other kinds are llama.cpp's own mixtures.
DIRECT = ("F32", "F16", "BF16", "Q8_0", "Q4_0")
F16_MAX = 65504
# llama.cpp turns row i with row i + K/2 in these, and neighbouring rows in the others.
HALF_SPLIT = ("qwen2", "qwen3")
OUTSIDE = {
    "embed_tokens": "token_embd",
    "embed_tokens.lm_head": "output",
    "norm": "output_norm",
}
IN_LAYER = {
    "input_layernorm": "attn_norm",
    "self_attn.q_proj": "attn_q",
    "self_attn.q_bias": "attn_q",
    "self_attn.q_norm": "attn_q_norm",
    "self_attn.k_proj": "attn_k",
    "self_attn.k_bias": "attn_k",
    "self_attn.k_norm": "attn_k_norm",
    "self_attn.v_proj": "attn_v",
    "self_attn.v_bias": "attn_v",
    "self_attn.kv_a_proj_with_mqa": "attn_kv_a_mqa",
    "self_attn.kv_a_layernorm": "attn_kv_a_norm",
    "self_attn.kv_b_proj": "attn_kv_b",
    "self_attn.o_proj": "attn_output",
    "post_attention_layernorm": "ffn_norm",
    "mlp.gate_proj": "ffn_gate",
    "mlp.up_proj": "ffn_up",
    "mlp.down_proj": "ffn_down",
}
_LAYER = re.compile(r"layers\.(\d+)\.(.*)\.(weight|bias)")


def gguf(
    model: nn.Module,
    tokenizer: Tokenizer | None,
    target: Path,
    *,
    about: About,
    kind: str = "F16",
    library: str | None = None,
) -> Path:
    """Write the model as one GGUF file, whole or not at all.

    Vectors, norms among them, are F32 in every kind. Q8_0 and Q4_0 hold all matrices, the embedding
    among them, in this type; llama.cpp's own kinds hold some in a better one, and are made of an
    F32 file that lies beside the target meanwhile.

    Args:
        model: of any floating dtype and on any device; it stays as it is.
        tokenizer: byte-level; None: a file without one, for ids only.
        target: ends in .gguf; must not exist.
        about: what goes along.
        kind: one of DIRECT, or a key of plm.formats.llama_cpp.KINDS.
        library: libllama, for a kind of llama.cpp's own; None: as `find_library` looks.
    Returns:
        The target.
    Raises:
        ConfigError: the model, the kind or the target cannot be; before anything is written.
        DataError: llama.cpp would read the tokenizer as another one.
        CheckpointError: a weight is no finite number.
    """
    package = _package()
    if target.suffix != ".gguf":
        raise ConfigError(f"{target}: the name of a GGUF file must end in .gguf")
    architecture = of_model(model, about.rope_theta)
    check_architecture(architecture)
    weights = _named(model)
    _check_kind(kind, {name: tuple(tensor.shape) for name, (_, tensor) in weights.items()})
    file_type = "ALL_F32" if kind == "F32" else f"MOSTLY_{kind}"
    keys = _keys(architecture, about, package.LlamaFileType[file_type])
    if tokenizer is None:
        keys["tokenizer.ggml.model"] = "no_vocab"
    else:
        check_tokenizer(tokenizer, architecture.vocab_size)
        keys |= gguf_tokenizer.keys(tokenizer, architecture.vocab_size, about)
    with whole(target) as partial:
        if kind in DIRECT:
            _write(package, partial, architecture, keys, weights, kind)
        else:
            from plm.formats.llama_cpp import quantize

            # F32, so that no weight is rounded twice.
            plain = partial.with_name(f"{partial.name}.F32")
            try:
                _write(package, plain, architecture, keys, weights, "F32")
                quantize(plain, partial, kind, library=library, threads=cores())
            finally:
                plain.unlink(missing_ok=True)
    return target


def _package() -> ModuleType:
    """The PyPI package of this file's name."""
    try:
        import gguf as package
    except ImportError:
        raise ConfigError("writing GGUF needs the package gguf: pip install gguf") from None
    return package


def check_architecture(architecture: Architecture) -> None:
    """Refuse what llama.cpp has no form for.

    Raises:
        ConfigError: why, and what can be done.
    """
    a = architecture
    if a.kind == "plm" and not a.tied:
        raise ConfigError(
            "model/embedding=untied: llama.cpp's plm always takes the embedding as head; train "
            "with model/embedding=tied, or export to Hugging Face's format"
        )
    # llama.cpp reads head_dim for the other kinds, but not for the shapes of this one.
    if a.kind == "qwen2" and a.num_attention_heads * a.head_dim != a.hidden_size:
        raise ConfigError(
            f"model.attention.head_dim={a.head_dim}: llama.cpp's qwen2 needs num_attention_heads · "
            f"head_dim = hidden_size, which are {a.num_attention_heads} and {a.hidden_size}; "
            "export to Hugging Face's format"
        )


def _check_kind(kind: str, shapes: Mapping[str, tuple[int, ...]]) -> None:
    from plm.formats.llama_cpp import KINDS, check_widths
    from plm.formats.llama_cpp_types import find_library

    if kind not in DIRECT and kind not in KINDS:
        known = dict.fromkeys((*DIRECT, *KINDS))
        raise ConfigError(f"kind={kind} is no type of GGUF file; known: {', '.join(known)}")
    if kind != "F32":
        check_widths(shapes, kind)
    if kind not in DIRECT:
        try:
            find_library()
        except ConfigError as error:
            raise ConfigError(f"kind={kind} is made by llama.cpp: {error}") from None


def _named(model: nn.Module) -> dict[str, tuple[str, Tensor]]:
    """By GGUF name: our name and the tensor, nothing copied."""
    found = {}
    for ours, tensor in weights_of(model).items():
        layer = _LAYER.fullmatch(ours)
        if layer and layer[2] in IN_LAYER:
            name = f"blk.{layer[1]}.{IN_LAYER[layer[2]]}.{layer[3]}"
        elif ours.removesuffix(".weight") in OUTSIDE:
            name = f"{OUTSIDE[ours.removesuffix('.weight')]}.weight"
        else:
            raise ConfigError(f"{ours} has no place in a GGUF file")
        found[name] = ours, tensor
    return found


def _keys(architecture: Architecture, about: About, file_type: int) -> dict[str, Any]:
    """Metadata beside the tokenizer's; an int is written as u32, a float as f32."""
    a = architecture
    keys = {
        "block_count": a.num_hidden_layers,
        "context_length": a.max_position_embeddings,
        "embedding_length": a.hidden_size,
        "feed_forward_length": a.intermediate_size,
        "attention.head_count": a.num_attention_heads,
        "attention.head_count_kv": a.num_key_value_heads,
        "attention.layer_norm_rms_epsilon": a.rms_norm_eps,
        "attention.key_length": a.head_dim,
        "attention.value_length": a.v_head_dim,
        "rope.dimension_count": a.qk_rope_head_dim or a.head_dim,
        "rope.freq_base": a.rope_theta,
        "vocab_size": a.vocab_size,
    }
    if a.kind == "plm":
        keys["attention.kv_lora_rank"] = a.kv_lora_rank
    return {
        "general.name": about.name,
        "general.file_type": int(file_type),
    } | {f"{a.kind}.{key}": value for key, value in keys.items()}


def _write(
    package: ModuleType,
    path: Path,
    architecture: Architecture,
    keys: Mapping[str, Any],
    weights: Mapping[str, tuple[str, Tensor]],
    kind: str,
) -> None:
    """Header first, then one tensor at a time, so that memory holds one besides the model."""
    types = package.GGUFValueType
    chosen = {bool: types.BOOL, int: types.UINT32, float: types.FLOAT32, str: types.STRING}
    matrix, vector = package.GGMLQuantizationType[kind], package.GGMLQuantizationType.F32
    writer = package.GGUFWriter(path, architecture.kind)
    try:
        writer.add_quantization_version(package.GGML_QUANT_VERSION)
        for key, value in keys.items():
            writer.add_key_value(key, value, chosen.get(type(value), types.ARRAY))
        held = {name: matrix if t.dim() > 1 else vector for name, (_, t) in weights.items()}
        for name, (_, tensor) in weights.items():
            block, size = package.GGML_QUANT_SIZES[held[name]]
            n_bytes = tensor.numel() // block * size
            writer.add_tensor_info(name, tensor.shape, np.float32, n_bytes, raw_dtype=held[name])
        writer.write_header_to_file()
        writer.write_kv_data_to_file()
        writer.write_ti_data_to_file()
        for name, values in _arrays(weights, architecture):
            if held[name].name == "F16" and max(values.max(), -values.min()) > F16_MAX:
                raise ConfigError(f"{name} has weights too large for F16; take kind=BF16")
            writer.write_tensor_data(package.quantize(values, held[name]))
    finally:
        writer.close()


def _arrays(
    weights: Mapping[str, tuple[str, Tensor]], architecture: Architecture
) -> Iterator[tuple[str, np.ndarray]]:
    """By GGUF name, fp32 and in llama.cpp's order of rows."""
    for name, (ours, tensor) in weights.items():
        value = tensor.detach().to("cpu", torch.float32)
        if architecture.kind in HALF_SPLIT:
            value = half_split(ours, value, architecture)
        array = value.contiguous().numpy()
        if not np.isfinite(array).all():
            raise CheckpointError(f"{ours} holds NaN or infinity; such a model cannot be used")
        yield name, array
