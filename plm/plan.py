"""What a run would cost, before it is started: counts are exact, what is marked so is an estimate.

Nothing is allocated: the model lies on torch's meta device or on fake tensors.
"""

from collections.abc import Mapping
from difflib import get_close_matches
from typing import Any

import torch
from torch import nn

from plm.config import build
from plm.errors import ConfigError
from plm.metrics import PEAK_FLOPS
from plm.phases import Plan
from plm.plan_memory import Sizes, memory
from plm.plan_saved import optimizer_bytes
from plm.plan_sources import MANY_EPOCHS, source_rows, source_sizes, source_totals

GPU_BYTES = {
    "H200": 141e9,
    "H100": 80e9,
    "B200": 180e9,
    "A100": 80e9,
    "RTX 4090": 24e9,
    "MI300X": 192e9,
}
"""Memory by the makers' data sheets, for the names in PEAK_FLOPS (an A100 also comes with half)."""

PART_OF_ROLE = {
    **dict.fromkeys(("q", "k", "v", "kv_a", "kv_b", "o"), "attention"),
    **dict.fromkeys(("up", "down", "gate"), "feed_forward"),
    "embedding": "embedding",
    "head": "head",
    "norm": "norm",
}


def gpu_name(asked: str) -> str:
    """The name in the tables that a user means, whatever the case.

    Raises:
        ConfigError: it is not there; the nearest names.
    """
    plain = {name.lower().replace(" ", ""): name for name in GPU_BYTES}
    key = asked.lower().replace(" ", "").replace("_", "")
    if key in plain:
        return plain[key]
    near = [plain[match] for match in get_close_matches(key, plain, 3, 0.4)]
    known = f"nearest: {', '.join(near)}" if near else f"known: {', '.join(GPU_BYTES)}"
    raise ConfigError(f"gpu={asked} is not in the table of GPUs; {known}")


def parameters(model: nn.Module) -> dict[str, Any]:
    """Number of parameters: all, without embedding and head, and by part."""
    roles, parts = model.roles(), {}
    for name, parameter in model.named_parameters():
        part = PART_OF_ROLE.get(roles.get(name, "other"), "other")
        parts[part] = parts.get(part, 0) + parameter.numel()
    return {
        "total": model.parameters_of(),
        "without_embedding": model.parameters_of(embedding=False),
        "parts": parts,
    }


def flops(model: nn.Module, seq_len: int) -> dict[str, float]:
    """FLOPs a token: counted part by part with causal attention, beside the rule 6N.

    Args:
        model: answers flops_per_token and training_flops_per_token.
        seq_len: T.
    Returns:
        forward; training, three times that where all weights learn; recomputed, one forward more:
        with activation checkpointing; six_n, of all parameters; six_n_off, how far the rule is off,
        as a share of `training`.
    """
    forward, training = model.flops_per_token(seq_len), model.training_flops_per_token(seq_len)
    rule = 6.0 * model.parameters_of()
    return {
        "seq_len": seq_len,
        "forward": forward,
        "training": training,
        "recomputed": training + forward,
        "six_n": rule,
        "six_n_off": rule / training - 1,
    }


def phase_rows(plan: Plan) -> list[dict[str, Any]]:
    """Of each phase: tokens asked and realised, share of the run, steps, windows."""
    return [
        {
            "name": planned.phase.name,
            "asked": planned.phase.tokens,
            "tokens": planned.tokens,
            "share": planned.tokens / plan.total_tokens,
            "steps": planned.steps,
            "windows": planned.steps * planned.rows,
            "windows_a_step": planned.rows,
            "seq_len": planned.phase.seq_len,
            "rate": f"{planned.phase.rate.shape} to {planned.phase.rate.to:g}",
        }
        for planned in plan.phases
    ]


def state_sizes(model: nn.Module, optimizer: int) -> dict[str, int]:
    """Bytes of checkpoints and of the decoding state.

    Args:
        model: answers state_bytes.
        optimizer: bytes of the optimizer's state.
    Returns:
        checkpoint_weights in fp32, checkpoint_all with the optimizer, export_16_bit; kv_latent and
        kv_expanded a token in 16 bits.
    """
    weights = 4 * model.parameters_of()
    return {
        "checkpoint_weights": weights,
        "checkpoint_all": weights + optimizer,
        "export_16_bit": weights // 2,
        "kv_latent": model.state_bytes(1, 2),
        "kv_expanded": model.state_bytes(1, 2, expanded=True),
    }


def run_time(
    model: nn.Module, plan: Plan, *, peak: float, mfu: float, gpus: int, price: float | None
) -> dict[str, float | None]:
    """Hours and cost at a share of the peak.

    Args:
        model: answers training_flops_per_token.
        plan: the phases.
        peak: FLOP/s of one GPU.
        mfu: share of it that the counted FLOPs reach, recomputation left out.
        gpus: how many.
        price: of one GPU-hour, in any currency; None: no cost.
    """
    total = sum(model.training_flops_per_token(p.phase.seq_len) * p.tokens for p in plan.phases)
    hours = total / (peak * mfu) / 3600
    return {
        "flops": total,
        "gpu_hours": hours,
        "hours": hours / gpus,
        "tokens_per_s": plan.total_tokens / (hours / gpus * 3600),
        "cost": None if price is None else hours * price,
    }


def draw_up(
    settings: Mapping[str, Any],
    *,
    gpu: str = "H100",
    gpus: int = 1,
    mfu: float = 0.4,
    price: float | None = None,
    there: Mapping[str, int] | None = None,
) -> dict[str, Any]:
    """The whole plan of a run.

    Args:
        settings: the composed configuration, plain.
        gpu: name in the table, any case.
        gpus: how many.
        mfu: share of the peak to count with, in (0, 1].
        price: of one GPU-hour.
        there: tokens that a source has; the others' are known where they are prepared here, or
            where the recipe says what is published.
    Raises:
        ConfigError: a setting that cannot work.
    """
    name = gpu_name(gpu)
    if gpus < 1 or not 0 < mfu <= 1 or (price is not None and price < 0):
        raise ConfigError(
            f"gpus={gpus} mfu={mfu} price={price}: at least 1, in (0, 1], and 0 or more are needed"
        )
    known = source_sizes(settings["data"], there)
    there = {source: about["size"] for source, about in known.items() if about["size"]}
    plan = Plan.read(settings["phases"]).resolved(there)
    with torch.device("meta"):
        model = build(settings["model"])
    optimizer = optimizer_bytes(settings["model"], settings["optimizer"])
    layers = [sum(p.numel() for p in layer.parameters()) for layer in model.layers]
    total = model.parameters_of()
    sizes = Sizes(
        parameters=total,
        root=total - sum(layers),
        layer=max(layers),
        vocab_size=model.vocab_size,
        hidden_size=model.hidden_size,
        optimizer=optimizer,
    )
    lengths = sorted({planned.phase.seq_len for planned in plan.phases})
    return {
        "parameters": parameters(model),
        "flops_per_token": [flops(model, seq_len) for seq_len in lengths],
        "tokens": plan.total_tokens,
        "steps": plan.total_steps,
        "phases": phase_rows(plan),
        "sources": source_rows(plan, there),
        "source_totals": source_totals(
            plan, known, settings["data"].get("max_epochs", MANY_EPOCHS)
        ),
        "memory": memory(settings, sizes, device_bytes=GPU_BYTES[name], gpus=gpus),
        "sizes": state_sizes(model, optimizer),
        "time": {
            "gpu": name,
            "gpus": gpus,
            "mfu": mfu,
            "price": price,
            "peak_flops": PEAK_FLOPS[name],
            **run_time(model, plan, peak=PEAK_FLOPS[name], mfu=mfu, gpus=gpus, price=price),
        },
    }
