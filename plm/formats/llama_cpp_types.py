"""The C interface of llama.cpp v0.5.0: finding its library, its structs, its kinds of file."""

import ctypes
import os
import re
import sys
from collections import deque
from collections.abc import Mapping, Sequence
from ctypes import POINTER, c_bool, c_char_p, c_float, c_int32, c_size_t, c_uint32, c_void_p
from functools import lru_cache
from pathlib import Path
from typing import Any

from plm.errors import ConfigError

VERSION = "0.5.0"
HOME = Path(__file__).resolve().parents[2] / ".llama-cpp"
VARIABLE = "PLM_LLAMA_CPP"
LIBRARY = re.compile(r"libllama(\.v?[\d.]+)?\.(so(\.[\d.]+)?|dylib)")
PARTS = re.compile(r"libggml(-base)?(\.v?[\d.]+)?\.(so(\.[\d.]+)?|dylib)")
F32, F16, TYPE_COUNT = 0, 1, 43
ERROR = 4
NO_VOCABULARY = 0
# By name: llama.cpp's number for the kind of file, and what a matrix's columns must divide by.
KINDS = {
    "F16": (1, 1),
    "BF16": (32, 1),
    "Q8_0": (7, 32),
    "Q4_0": (2, 32),
    "Q4_1": (3, 32),
    "Q5_0": (8, 32),
    "Q5_1": (9, 32),
    "Q2_K": (10, 256),
    "Q3_K_S": (11, 256),
    "Q3_K_M": (12, 256),
    "Q3_K_L": (13, 256),
    "Q4_K_S": (14, 256),
    "Q4_K_M": (15, 256),
    "Q5_K_S": (16, 256),
    "Q5_K_M": (17, 256),
    "Q6_K": (18, 256),
}
# What is offered instead, by the divisor that all columns have.
INSTEAD = {32: "Q8_0, Q5_0 or Q4_0", 1: "F16 or BF16"}
# What a library of another layout may write behind the fields that are known here.
SPARE = ("spare", ctypes.c_ubyte * 1024)


class ModelParams(ctypes.Structure):
    """llama_model_params."""

    _fields_ = (
        ("devices", c_void_p),
        ("tensor_buft_overrides", c_void_p),
        ("n_gpu_layers", c_int32),
        ("split_mode", c_int32),
        ("load_mode", c_int32),
        ("lazy_mode", c_int32),
        ("main_gpu", c_int32),
        ("tensor_split", c_void_p),
        ("progress_callback", c_void_p),
        ("progress_callback_user_data", c_void_p),
        ("kv_overrides", c_void_p),
        ("vocab_only", c_bool),
        ("check_tensors", c_bool),
        ("use_extra_bufts", c_bool),
        ("no_host", c_bool),
        ("no_alloc", c_bool),
        ("load_mtp", c_bool),
        SPARE,
    )


class ContextParams(ctypes.Structure):
    """llama_context_params."""

    _fields_ = (
        ("n_ctx", c_uint32),
        ("n_batch", c_uint32),
        ("n_ubatch", c_uint32),
        ("n_seq_max", c_uint32),
        ("n_rs_seq", c_uint32),
        ("n_outputs_max", c_uint32),
        ("n_outputs_max_per_seq", c_uint32),
        ("n_threads", c_int32),
        ("n_threads_batch", c_int32),
        ("ctx_type", c_int32),
        ("rope_scaling_type", c_int32),
        ("pooling_type", c_int32),
        ("attention_type", c_int32),
        ("flash_attn_type", c_int32),
        ("rope_freq_base", c_float),
        ("rope_freq_scale", c_float),
        ("yarn_ext_factor", c_float),
        ("yarn_attn_factor", c_float),
        ("yarn_beta_fast", c_float),
        ("yarn_beta_slow", c_float),
        ("yarn_orig_ctx", c_uint32),
        ("defrag_thold", c_float),
        ("cb_eval", c_void_p),
        ("cb_eval_user_data", c_void_p),
        ("type_k", c_int32),
        ("type_v", c_int32),
        ("abort_callback", c_void_p),
        ("abort_callback_data", c_void_p),
        ("embeddings", c_bool),
        ("offload_kqv", c_bool),
        ("no_perf", c_bool),
        ("op_offload", c_bool),
        ("swa_full", c_bool),
        ("kv_unified", c_bool),
        ("samplers", c_void_p),
        ("n_samplers", c_size_t),
        ("ctx_other", c_void_p),
        SPARE,
    )


class QuantizeParams(ctypes.Structure):
    """llama_model_quantize_params."""

    _fields_ = (
        ("nthread", c_int32),
        ("ftype", c_int32),
        ("output_tensor_type", c_int32),
        ("token_embedding_type", c_int32),
        ("allow_requantize", c_bool),
        ("quantize_output_tensor", c_bool),
        ("only_copy", c_bool),
        ("pure", c_bool),
        ("keep_split", c_bool),
        ("dry_run", c_bool),
        ("imatrix", c_void_p),
        ("kv_overrides", c_void_p),
        ("tt_overrides", c_void_p),
        ("prune_layers", c_void_p),
        ("max_buf_size", c_size_t),
        SPARE,
    )


class Batch(ctypes.Structure):
    """llama_batch; without sequence ids every token belongs to sequence 0."""

    _fields_ = (
        ("n_tokens", c_int32),
        ("token", c_void_p),
        ("embd", c_void_p),
        ("pos", c_void_p),
        ("n_seq_id", c_void_p),
        ("seq_id", c_void_p),
        ("logits", c_void_p),
    )


# Defaults that are not zero, false or null; each tells that the fields before it are where they
# are thought to be.
DEFAULTS: dict[str, tuple[type[ctypes.Structure], dict[str, Any]]] = {
    "llama_model_default_params": (
        ModelParams,
        {"n_gpu_layers": -1, "split_mode": 1, "load_mode": -1, "lazy_mode": 1}
        | {"use_extra_bufts": True},
    ),
    "llama_context_default_params": (
        ContextParams,
        {"n_ctx": 512, "n_batch": 2048, "n_ubatch": 512, "n_seq_max": 1}
        | {"n_outputs_max_per_seq": 1, "n_threads": 4, "n_threads_batch": 4}
        | {"rope_scaling_type": -1, "pooling_type": -1, "attention_type": -1}
        | {"flash_attn_type": -1, "yarn_ext_factor": -1.0, "yarn_attn_factor": -1.0}
        | {"yarn_beta_fast": -1.0, "yarn_beta_slow": -1.0, "defrag_thold": -1.0}
        | {"type_k": F16, "type_v": F16, "offload_kqv": True, "no_perf": True}
        | {"op_offload": True, "swa_full": True},
    ),
    "llama_model_quantize_default_params": (
        QuantizeParams,
        {"ftype": 7, "output_tensor_type": TYPE_COUNT, "token_embedding_type": TYPE_COUNT}
        | {"quantize_output_tensor": True, "max_buf_size": 8 << 30},
    ),
}
# Name: result, arguments.
FUNCTIONS: dict[str, tuple[Any, tuple[Any, ...]]] = {
    **{name: (params, ()) for name, (params, _) in DEFAULTS.items()},
    "llama_log_set": (None, (c_void_p, c_void_p)),
    "llama_backend_init": (None, ()),
    "ggml_backend_load_all": (None, ()),
    "ggml_backend_load_all_from_path": (None, (c_char_p,)),
    "ggml_backend_dev_count": (c_size_t, ()),
    "llama_model_load_from_file": (c_void_p, (c_char_p, ModelParams)),
    "llama_model_free": (None, (c_void_p,)),
    "llama_init_from_model": (c_void_p, (c_void_p, ContextParams)),
    "llama_free": (None, (c_void_p,)),
    "llama_get_memory": (c_void_p, (c_void_p,)),
    "llama_memory_clear": (None, (c_void_p, c_bool)),
    "llama_decode": (c_int32, (c_void_p, Batch)),
    "llama_get_logits": (POINTER(c_float), (c_void_p,)),
    "llama_model_get_vocab": (c_void_p, (c_void_p,)),
    "llama_model_desc": (c_int32, (c_void_p, c_char_p, c_size_t)),
    "llama_model_meta_val_str": (c_int32, (c_void_p, c_char_p, c_char_p, c_size_t)),
    "llama_vocab_type": (c_int32, (c_void_p,)),
    "llama_vocab_n_tokens": (c_int32, (c_void_p,)),
    "llama_vocab_bos": (c_int32, (c_void_p,)),
    "llama_vocab_eos": (c_int32, (c_void_p,)),
    "llama_vocab_pad": (c_int32, (c_void_p,)),
    "llama_tokenize": (
        c_int32,
        (c_void_p, c_char_p, c_int32, POINTER(c_int32), c_int32, c_bool, c_bool),
    ),
    "llama_token_to_piece": (
        c_int32,
        (c_void_p, c_int32, c_char_p, c_int32, c_int32, c_bool),
    ),
    "llama_model_quantize": (c_uint32, (c_char_p, c_char_p, POINTER(QuantizeParams))),
}
# The newest lines that llama.cpp logged as errors, one process-wide log as in llama.cpp.
errors: deque[str] = deque(maxlen=8)


@ctypes.CFUNCTYPE(None, c_int32, c_char_p, c_void_p)
def _log(level: int, text: bytes, _: int | None) -> None:
    if level == ERROR and (line := text.decode(errors="replace").strip()):
        errors.append(line)


def why() -> str:
    """llama.cpp's own words on what failed last, the first line of them, and forget them."""
    found = [re.sub(r"^\w+: ", "", line) for line in errors]
    errors.clear()
    return found[0] if found else "it says nothing"


def find_library(path: str | Path | None = None) -> Path:
    """The libllama to use.

    Args:
        path: a library or a folder that holds one; None: the environment variable PLM_LLAMA_CPP
            likewise, else where `make llama-cpp` puts it.
    Raises:
        ConfigError: there is none, or a folder holds several.
    """
    named = f"{VARIABLE}={os.environ.get(VARIABLE)}" if path is None else str(path)
    given = path or os.environ.get(VARIABLE)
    place = Path(given) if given else HOME
    if place.is_file():
        return place.resolve()
    if given and not place.is_dir():
        raise ConfigError(f"{named} does not exist; it must be a libllama or a folder with one")
    files = place.rglob("libllama*") if place.is_dir() else ()
    found = sorted({file.resolve() for file in files if LIBRARY.fullmatch(file.name)})
    if len(found) > 1:
        raise ConfigError(f"{place} holds several libllama; name one: {found[0]} or {found[1]}")
    if not found:
        raise ConfigError(
            f"{named} holds no libllama"
            if given
            else f"llama.cpp is not there; `make llama-cpp` fetches it, or set {VARIABLE} to a "
            f"libllama of llama.cpp v{VERSION}"
        )
    return found[0]


def check_interface(library: Any, path: Path) -> None:
    """Compare the default parameters with those of the version whose structs are written here.

    Raises:
        ConfigError: a function is missing, or a field is not where it is thought to be.
    """
    other = f"{path}: this libllama has another interface than llama.cpp v{VERSION}"
    remedy = "`make llama-cpp` fetches the right one"
    for name in FUNCTIONS:
        if not hasattr(library, name):
            raise ConfigError(f"{other}: {name} is missing; {remedy}")
    for name, (params, special) in DEFAULTS.items():
        found = getattr(library, name)()
        for field, *_ in params._fields_[:-1]:
            value, expected = getattr(found, field), special.get(field, 0)
            if (value or 0) != expected:
                raise ConfigError(
                    f"{other}: {name}().{field} is {value!r}, not {expected}; {remedy}"
                )


def _open(path: Path) -> ctypes.CDLL:
    try:
        return ctypes.CDLL(str(path))
    except OSError:
        # A library that was moved may not find its parts, though they lie beside it.
        for part in sorted(path.parent.iterdir()):
            if PARTS.fullmatch(part.name):
                ctypes.CDLL(str(part), mode=ctypes.RTLD_GLOBAL)
        return ctypes.CDLL(str(path))


@lru_cache
def load(path: Path) -> ctypes.CDLL:
    """The library with its processor variants, checked and silent.

    Raises:
        ConfigError: it cannot be loaded, or has another interface.
    """
    try:
        library = _open(path)
    except OSError as error:
        raise ConfigError(f"{path} cannot be loaded: {error}") from None
    for name, (result, arguments) in FUNCTIONS.items():
        if hasattr(library, name):
            function = getattr(library, name)
            function.restype, function.argtypes = result, arguments
    check_interface(library, path)
    library.llama_log_set(ctypes.cast(_log, c_void_p), None)
    library.ggml_backend_load_all_from_path(os.fsencode(path.parent))
    if not library.ggml_backend_dev_count():
        library.ggml_backend_load_all()
    if not library.ggml_backend_dev_count():
        raise ConfigError(f"{path.parent} holds no libggml-cpu that runs on this {sys.platform}")
    library.llama_backend_init()
    errors.clear()
    return library


def check_widths(shapes: Mapping[str, Sequence[int]], kind: str) -> None:
    """Refuse a kind that llama.cpp would silently exchange for another in some tensor.

    Where a matrix's columns do not fill its type's blocks, llama.cpp v0.5.0 writes Q5_0 for Q4_K,
    Q5_1 for Q5_K, Q8_0 for Q6_K, Q4_0 for Q3_K and Q2_K, and F16 where those do not fit either.
    One such case is let pass: Q4_0, Q4_1, Q5_0 and Q5_1 have their tied embedding or head in Q6_K,
    and in the wider Q8_0 where its columns are no multiple of 256.

    Args:
        shapes: by GGUF name, (rows, columns); what is not a matrix, or a norm, stays as it is.
        kind: a key of KINDS.
    Raises:
        ConfigError: an unknown kind, or the first tensor that cannot hold it, and what can.
    """
    if kind not in KINDS:
        raise ConfigError(f"kind={kind} is not one of {', '.join(KINDS)}")
    block = KINDS[kind][1]
    matrices = {
        name: int(shape[-1])
        for name, shape in shapes.items()
        if len(shape) > 1 and name.endswith("weight") and not name.endswith("_norm.weight")
    }
    fits = next(size for size in (32, 1) if all(width % size == 0 for width in matrices.values()))
    for name, width in matrices.items():
        if width % block:
            raise ConfigError(
                f"{kind} needs widths that are multiples of {block}, but {name} has {width} "
                f"columns; {INSTEAD[fits]} fits all tensors"
            )
