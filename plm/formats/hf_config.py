"""Hugging Face's config.json, both ways."""

import json
from pathlib import Path
from typing import Any

from plm.errors import CheckpointError
from plm.formats.architecture import KINDS, Architecture

# transformers does not know PLM: these go into its folders, and are loaded from there.
PLM_FILES = Path(__file__).with_name("plm_files")
CLASSES = {
    "plm": "PLMForCausalLM",
    "llama": "LlamaForCausalLM",
    "qwen2": "Qwen2ForCausalLM",
    "qwen3": "Qwen3ForCausalLM",
}
_ACTIVATIONS = {"plm": "relu2", "llama": "silu", "qwen2": "silu", "qwen3": "silu"}

# What transformers takes where config.json is silent, as far as the sizes of a model hang on it.
_DEFAULTS: dict[str, dict[str, Any]] = {
    "plm": {"rope_theta": 100000.0, "rms_norm_eps": 1e-6, "tie_word_embeddings": True},
    "llama": {"rope_theta": 10000.0, "rms_norm_eps": 1e-6, "tie_word_embeddings": False},
    "qwen2": {"rope_theta": 10000.0, "rms_norm_eps": 1e-6, "tie_word_embeddings": False},
    "qwen3": {"rope_theta": 10000.0, "rms_norm_eps": 1e-6, "tie_word_embeddings": False},
}


def to_config(architecture: Architecture, dtype: str) -> dict[str, Any]:
    """config.json of an architecture, without the ids of special tokens.

    Args:
        architecture: what the model is.
        dtype: of the weights, as torch names it: float32, bfloat16, float16.
    """
    a = architecture
    config: dict[str, Any] = {
        "architectures": [CLASSES[a.kind]],
        "model_type": a.kind,
        "vocab_size": a.vocab_size,
        "hidden_size": a.hidden_size,
        "intermediate_size": a.intermediate_size,
        "num_hidden_layers": a.num_hidden_layers,
        "num_attention_heads": a.num_attention_heads,
        "num_key_value_heads": a.num_key_value_heads,
        "hidden_act": _ACTIVATIONS[a.kind],
        "max_position_embeddings": a.max_position_embeddings,
        "initializer_range": a.initializer_range,
        "rms_norm_eps": a.rms_norm_eps,
        "rope_theta": a.rope_theta,
        "tie_word_embeddings": a.tied,
        "attention_dropout": 0.0,
        "use_cache": True,
        # Both names: transformers before 4.56 knows the first one only.
        "torch_dtype": dtype,
        "dtype": dtype,
    }
    if a.kind == "plm":
        config |= {
            "kv_lora_rank": a.kv_lora_rank,
            "q_lora_rank": None,
            "qk_nope_head_dim": a.qk_nope_head_dim,
            "qk_rope_head_dim": a.qk_rope_head_dim,
            "v_head_dim": a.v_head_dim,
            "rope_interleave": True,
            "attention_bias": False,
            "auto_map": {
                "AutoConfig": "configuration_plm.PLMConfig",
                "AutoModel": "modeling_plm.PLMModel",
                "AutoModelForCausalLM": "modeling_plm.PLMForCausalLM",
            },
        }
    else:
        config["head_dim"] = a.head_dim
        # transformers 5 reads the base here alone.
        config["rope_parameters"] = {"rope_type": "default", "rope_theta": a.rope_theta}
        if a.kind != "qwen2":
            config["attention_bias"] = False
        config |= {"mlp_bias": False} if a.kind == "llama" else {"use_sliding_window": False}
    return config


def read_config(folder: Path) -> dict[str, Any]:
    """config.json of a Hugging Face folder.

    Raises:
        CheckpointError: it is not there, or is no JSON object.
    """
    file = folder / "config.json"
    try:
        found = json.loads(file.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise CheckpointError(f"{file} cannot be read: {error}") from error
    if not isinstance(found, dict):
        raise CheckpointError(f"{file} holds no JSON object")
    return found


def of_config(config: dict[str, Any], where: Path | str) -> Architecture:
    """What the model of a config.json is.

    Args:
        config: of PLM, Llama (SmolLM2 is one), Qwen2 (Qwen2.5 is one) or Qwen3.
        where: the folder, for messages.
    Raises:
        CheckpointError: another architecture, a missing size, or a setting that is not built here.
    """
    kind = config.get("model_type")
    if kind not in KINDS:
        raise CheckpointError(
            f"{where}/config.json: model_type={kind!r} is not known here; {', '.join(KINDS)} are"
        )
    _refuse(config, kind, where)
    rope = config.get("rope_parameters") or {}
    given = {**_DEFAULTS[kind], **{k: v for k, v in config.items() if v is not None}}
    if rope.get("rope_theta") is not None:
        given["rope_theta"] = rope["rope_theta"]

    def need(key: str) -> int:
        value = given.get(key)
        if isinstance(value, bool) or not isinstance(value, int) or value < 1:
            raise CheckpointError(f"{where}/config.json: {key}={value!r} is not a size")
        return value

    heads = need("num_attention_heads")
    common = {
        "kind": kind,
        "vocab_size": need("vocab_size"),
        "hidden_size": need("hidden_size"),
        "num_hidden_layers": need("num_hidden_layers"),
        "num_attention_heads": heads,
        "intermediate_size": need("intermediate_size"),
        "max_position_embeddings": need("max_position_embeddings"),
        "rope_theta": float(given["rope_theta"]),
        "rms_norm_eps": float(given["rms_norm_eps"]),
        "tied": bool(given["tie_word_embeddings"]),
        "initializer_range": float(given.get("initializer_range", 0.02)),
    }
    if kind == "plm":
        rotary = need("qk_rope_head_dim")
        return Architecture(
            **common,
            num_key_value_heads=heads,
            head_dim=need("qk_nope_head_dim") + rotary,
            v_head_dim=need("v_head_dim"),
            kv_lora_rank=need("kv_lora_rank"),
            qk_rope_head_dim=rotary,
        )
    head = given.get("head_dim")
    # Qwen3's class has a size of its own where config.json gives none; the others divide.
    head = need("head_dim") if head else 128 if kind == "qwen3" else need("hidden_size") // heads
    kv_heads = need("num_key_value_heads") if "num_key_value_heads" in given else heads
    return Architecture(**common, num_key_value_heads=kv_heads, head_dim=head, v_head_dim=head)


def _refuse(config: dict[str, Any], kind: str, where: Path | str) -> None:
    """Raise CheckpointError for a setting under which the model computes something else."""
    rope = {**(config.get("rope_scaling") or {}), **(config.get("rope_parameters") or {})}
    scaling = rope.get("rope_type") or rope.get("type") or "default"
    only = {
        "hidden_act": _ACTIVATIONS[kind],
        "attention_bias": False,
        "mlp_bias": False,
        "use_sliding_window": False,
        "q_lora_rank": None,
    }
    problems = [
        f"{key}={config[key]!r}, here {value!r} is built"
        for key, value in only.items()
        if config.get(key) not in (None, value)
    ]
    if set(config.get("layer_types") or []) - {"full_attention"}:
        problems.append(f"layer_types={config['layer_types'][:4]}, here full attention is built")
    if scaling != "default":
        problems.append(f"rope scaling {scaling!r}, here 'default' is built")
    if rope.get("partial_rotary_factor") not in (None, 1, 1.0):
        problems.append(f"partial_rotary_factor={rope['partial_rotary_factor']}, here 1 is built")
    kv_heads = config.get("num_key_value_heads")
    if kind == "plm" and kv_heads not in (None, config.get("num_attention_heads")):
        problems.append(f"num_key_value_heads={kv_heads} differs from num_attention_heads")
    if problems:
        raise CheckpointError(f"{where}/config.json: {'; '.join(problems)}")
