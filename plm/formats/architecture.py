"""What a model is, in the words that files of other programs use: one flat record."""

import logging
from dataclasses import dataclass, fields
from typing import Any

from torch import Tensor, nn

from plm.errors import ConfigError
from plm.model.common import own

log = logging.getLogger("plm")

KINDS = ("plm", "llama", "qwen2", "qwen3")
"""Architectures that files exist for, named as transformers' model_type and GGUF name them.

plm: latent attention, squared ReLU without a gate. llama: grouped-query attention and SwiGLU;
qwen2: with biases on queries, keys and values; qwen3: with a norm on every query and key head.
"""


@dataclass(frozen=True)
class Architecture:
    """Sizes and switches of a model that other programs can load.

    Attributes:
        kind: one of KINDS.
        vocab_size, hidden_size, num_hidden_layers, num_attention_heads, intermediate_size,
            max_position_embeddings, initializer_range, rope_theta, rms_norm_eps: as in
            transformers' configurations.
        num_key_value_heads: that of plm equals num_attention_heads.
        head_dim: size of a query and key head; of plm nope and rope together.
        v_head_dim: size of a value head.
        kv_lora_rank, qk_rope_head_dim: of plm; 0 for the others.
        tied: one table for the embedding and the head.
    """

    kind: str
    vocab_size: int
    hidden_size: int
    num_hidden_layers: int
    num_attention_heads: int
    num_key_value_heads: int
    intermediate_size: int
    max_position_embeddings: int
    head_dim: int
    v_head_dim: int
    rope_theta: float
    rms_norm_eps: float
    tied: bool
    initializer_range: float = 0.02
    kv_lora_rank: int = 0
    qk_rope_head_dim: int = 0

    @property
    def qk_nope_head_dim(self) -> int:
        """Size of the part of a head's key without position; plm only."""
        return self.head_dim - self.qk_rope_head_dim

    def differences(self, other: "Architecture") -> list[str]:
        """Each setting that another has otherwise, as `name: <here> here, <there> there`.

        The initial weights' spread says nothing about what a model computes, and the longest
        context may be used in part: both are left out.
        """
        skipped = ("initializer_range", "max_position_embeddings")
        return [
            f"{f.name}: {getattr(self, f.name)} here, {getattr(other, f.name)} there"
            for f in fields(self)
            if f.name not in skipped and getattr(self, f.name) != getattr(other, f.name)
        ]


def of_model(model: nn.Module, rope_theta: float | None = None) -> Architecture:
    """The record of a model that was built here.

    Args:
        model: a Transformer.
        rope_theta: rotary base that a phase set, in the place of the model's own.
    Raises:
        ConfigError: which part no file format can hold, or which two parts no one format holds
            together.
    """
    layer = model.layers[0]
    kind = _kind(model)
    _check_layers(model)
    mixer, mlp = layer.self_attn, layer.mlp
    common = {
        "kind": kind,
        "vocab_size": model.vocab_size,
        "hidden_size": model.hidden_size,
        "num_hidden_layers": len(model.layers),
        "num_attention_heads": mixer.heads,
        "intermediate_size": mlp.up_proj.out_features,
        "max_position_embeddings": model.max_position_embeddings,
        "initializer_range": model.initializer_range,
        "rope_theta": float(rope_theta or mixer.rope_theta),
        "rms_norm_eps": _eps(model),
        "tied": model.embed_tokens.tied,
        "v_head_dim": mixer.value,
    }
    if kind == "plm":
        return Architecture(
            **common,
            num_key_value_heads=mixer.heads,
            head_dim=mixer.nope + mixer.rope,
            kv_lora_rank=mixer.rank,
            qk_rope_head_dim=mixer.rope,
        )
    if mixer.value != mixer.key:
        raise ConfigError(
            f"model.attention.v_head_dim={mixer.value} differs from head_dim={mixer.key}: "
            f"the architecture {kind} has one size for both"
        )
    return Architecture(**common, num_key_value_heads=mixer.kv_heads, head_dim=mixer.key)


def _kind(model: nn.Module) -> str:
    """The one architecture that all parts of the first layer can go into."""
    layer = model.layers[0]
    parts = {"model.block": layer, "model.embedding": model.embed_tokens, "model.norm": model.norm}
    for key, name in (("model.attention", "self_attn"), ("model.mlp", "mlp")):
        if hasattr(layer, name):
            parts[key] = getattr(layer, name)
    if hasattr(getattr(layer, "mlp", None), "activation"):
        parts["model.activation"] = layer.mlp.activation
    possible, said = set(KINDS), []
    for key, part in parts.items():
        holds = own(part, "exports")
        holds = set(holds(part) if callable(holds) else holds or ())
        name = f"{key}={type(part).__name__}"
        if not holds:
            raise ConfigError(f"{name} goes into no file format: {', '.join(KINDS)} are known")
        if holds < set(KINDS):
            said.append(f"{name} goes into {' or '.join(sorted(holds))}")
        possible &= holds
    if not possible:
        raise ConfigError(f"no file format holds these parts together: {'; '.join(said)}")
    return next(kind for kind in KINDS if kind in possible)


def _check_layers(model: nn.Module) -> None:
    """Plain projections, and all layers alike."""
    for name, module in model.named_modules():
        role = getattr(module, "role", None)
        if role is not None and not name.startswith("heads.") and type(module) is not nn.Linear:
            raise ConfigError(
                f"model.linear: {name} is a {type(module).__name__}, and files hold plain matrices "
                "only; turn it into one before the export"
            )
    first = model.layers[0]
    for index, layer in enumerate(model.layers):
        if [type(m) for m in layer.modules()] != [type(m) for m in first.modules()] or any(
            a.shape != b.shape for a, b in zip(layer.parameters(), first.parameters(), strict=True)
        ):
            raise ConfigError(
                f"layers.{index} differs from layers.0 in its parts or widths; the formats here "
                "have one form for all layers"
            )


def _eps(model: nn.Module) -> float:
    found = {m.eps for n, m in model.named_modules() if n.endswith("norm") and hasattr(m, "eps")}
    if len(found) != 1:
        raise ConfigError(f"model.norm: {sorted(found)} as eps; files have one for all norms")
    return float(found.pop())


def weights_of(model: nn.Module) -> dict[str, Tensor]:
    """The weights that files hold, by our name, nothing copied; heads of training's own are not."""
    found = model.state_dict()
    heads = dict.fromkeys(name.split(".")[1] for name in found if name.startswith("heads."))
    if heads:
        log.warning("model.heads: %s left out; files hold the output head only", ", ".join(heads))
    return {name: value for name, value in found.items() if not name.startswith("heads.")}


def model_node(architecture: Architecture) -> dict[str, Any]:
    """The configuration's node `model` of such a model, as `plm.config.build` takes it."""
    a = architecture
    norm = _part("norm.rms_norm.RMSNorm", eps=a.rms_norm_eps)
    if a.kind == "plm":
        attention = _part(
            "attention.mla.MLA",
            num_attention_heads=a.num_attention_heads,
            kv_lora_rank=a.kv_lora_rank,
            qk_nope_head_dim=a.qk_nope_head_dim,
            qk_rope_head_dim=a.qk_rope_head_dim,
            v_head_dim=a.v_head_dim,
            rope_theta=a.rope_theta,
        )
        mlp = _part("mlp.ungated.Ungated", intermediate_size=a.intermediate_size)
        activation = _part("activation.relu2.ReLU2")
    else:
        attention = _part(
            "attention.gqa.GQA",
            num_attention_heads=a.num_attention_heads,
            num_key_value_heads=a.num_key_value_heads,
            head_dim=a.head_dim,
            v_head_dim=None,
            rope_theta=a.rope_theta,
            qkv_bias=a.kind == "qwen2",
            qk_norm=a.kind == "qwen3",
        )
        mlp = _part("mlp.swiglu.SwiGLU", intermediate_size=a.intermediate_size)
        activation = _part("activation.silu.SiLU")
    return {
        "_target_": "plm.model.transformer.Transformer",
        "attention": attention,
        "mlp": mlp,
        "activation": activation,
        "norm": norm,
        "block": _part("block.pre_norm.PreNorm"),
        "linear": _part("linear.dense.dense"),
        "matmul": _part("matmul.dense.dense"),
        "embedding": _part("embedding.tied.Tied" if a.tied else "embedding.untied.Untied"),
        "vocab_size": a.vocab_size,
        "hidden_size": a.hidden_size,
        "num_hidden_layers": a.num_hidden_layers,
        "max_position_embeddings": a.max_position_embeddings,
        "heads": {},
        "initializer_range": a.initializer_range,
        "depth_scaled_init": False,
        "checkpoint_activations": False,
        "kernels": "auto",
    }


def _part(name: str, **settings: Any) -> dict[str, Any]:
    return {"_target_": f"plm.model.{name}", "_partial_": True, **settings}
