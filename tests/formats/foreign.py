"""Tiny folders in the layouts of the models that people start from, made by the peers' classes."""

from pathlib import Path
from typing import Any

import torch
from torch import nn

SIZES = {
    "vocab_size": 64,
    "hidden_size": 32,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "intermediate_size": 48,
    "max_position_embeddings": 128,
}
# As the released ones: SmolLM2 ties and has its own base, Qwen2.5 has biases, Qwen3 its own heads.
LAYOUTS: dict[str, dict[str, Any]] = {
    "smollm2": {"family": "Llama", "rope_theta": 100000.0, "rms_norm_eps": 1e-5, "tied": True},
    "llama": {"family": "Llama", "rope_theta": 500000.0, "rms_norm_eps": 1e-5, "tied": False},
    "qwen2.5": {"family": "Qwen2", "rope_theta": 1000000.0, "rms_norm_eps": 1e-6, "tied": True},
    "qwen3": {
        "family": "Qwen3",
        "rope_theta": 1000000.0,
        "rms_norm_eps": 1e-6,
        "tied": True,
        "head_dim": 12,
    },
}


def make(layout: str, folder: Path, dtype: torch.dtype = torch.float32, **more: Any) -> nn.Module:
    """Save a model of the layout with random weights, norms and biases included; returns it."""
    import transformers

    chosen = {**LAYOUTS[layout]}
    family, tied = chosen.pop("family"), chosen.pop("tied")
    theta = chosen.pop("rope_theta")
    # transformers 5 reads the base in rope_parameters.
    rope = {"rope_parameters": {"rope_type": "default", "rope_theta": theta}}
    config = getattr(transformers, f"{family}Config")(
        **{**SIZES, **chosen, **rope, **more}, tie_word_embeddings=tied
    )
    generator = torch.Generator().manual_seed(1)
    model = getattr(transformers, f"{family}ForCausalLM")(config).eval()
    with torch.no_grad():
        for parameter in model.parameters():
            noise = torch.randn(parameter.shape, generator=generator)
            parameter.copy_(1 + 0.3 * noise if parameter.dim() == 1 else 0.2 * noise)
    model.to(dtype).save_pretrained(folder)
    return model
