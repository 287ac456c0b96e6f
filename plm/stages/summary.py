"""What is about to run, on one screen, before step 1."""

import logging
import os
from typing import Any

import torch
from torch import nn

from plm import products
from plm.kernels.dispatch import which
from plm.precision import accelerator_of
from plm.report.format import human_time, human_tokens

log = logging.getLogger("plm")

TYPICAL_SHARE = 0.45
"""Share of the peak that a step is guessed to reach, for the expected time alone."""


def show(job: Any, peak: float) -> None:
    """Log the summary.

    Args:
        job: the built run.
        peak: FLOP/s of all devices together; 0: unknown.
    """
    settings, plan, about = job.settings, job.plan, describe(job.model)
    kind = accelerator_of(settings["trainer"]["accelerator"])
    device = "CPU" if kind == "cpu" else torch.cuda.get_device_name()
    lines = [
        ("run", str(job.folder.path)),
        ("model", f"{human_tokens(about['parameters'])} parameters: {about['describe']}"),
        ("tokens", _tokens(job)),
    ]
    for planned in plan.phases:
        phase, rate = planned.phase, planned.phase.rate
        mixture = ", ".join(f"{name} {share:.0%}" for name, share in planned.shares().items())
        mixture += " on average, changing" if phase.mixture_to else ""
        warm = f", warm-up {human_tokens(rate.warmup_tokens)}" if rate.warmup_tokens else ""
        lines.append(
            (
                f"  {phase.name}",
                f"{human_tokens(planned.tokens)} in {planned.steps} steps of "
                f"{planned.rows} x {phase.seq_len}; {rate.shape} to {rate.to:g}{warm}; {mixture}",
            )
        )
    lines += [
        ("data", _data(job)),
        ("precision", f"{settings['precision']} on {job.world} x {device}, "
                      f"{torch.get_num_threads()} threads each"),
        ("processor", _processor()),
        ("kernels", which(settings["kernels"], kind)),
    ]  # fmt: skip
    if peak:
        per_token = job.model.training_flops_per_token
        flops = sum(per_token(p.phase.seq_len) * p.tokens for p in plan.phases)
        left = 1 - (job.stage.tokens_seen - plan.origin_tokens) / plan.total_tokens
        seconds = human_time(flops * left / peak / TYPICAL_SHARE)
        lines.append(("expected", f"about {seconds} at {TYPICAL_SHARE:.0%} of the matmul rate"))
    for name, text in lines:
        log.info("%-14s %s", name, text)


def _processor() -> str:
    waiting = os.environ.get("OMP_WAIT_POLICY", "default").lower()
    capability = torch.backends.cpu.get_cpu_capability()
    return f"{capability}, products by {products.in_use()}, threads wait {waiting}"


def _tokens(job: Any) -> str:
    plan, seen = job.plan, job.stage.tokens_seen
    text = f"{human_tokens(plan.total_tokens)} in {plan.total_steps} steps"
    if job.resumed:
        return f"{text}; going on at {human_tokens(seen)} from {job.start.path.name}"
    if job.start.path is not None:
        kind = "everything" if job.start.everything else "weights"
        return f"{text}; {kind} from {job.start.path}"
    return text


def _data(job: Any) -> str:
    prepared = job.prepared
    if hasattr(prepared, "describe"):
        return prepared.describe()
    manifest = prepared.manifest
    text = f"{manifest['recipe']} {prepared.fingerprint[:12]}: " + ", ".join(
        f"{name} {human_tokens(parts['train'].n_tokens)}"
        for name, parts in prepared.sources.items()
        if name in job.order.names
    )
    if not manifest.get("comparable", True):
        why = "; ".join(manifest["not_comparable_because"])
        text += f"; not comparable with other machines: {why}"
    read = job.order.read(0, job.plan.total_steps)
    for name, tokens in read.items():
        there = job.order.blocks[name] * job.order.block_tokens
        if tokens > there:
            text += f"; {name} is read {tokens / there:.1f} times"
    return text


def _parts(layer: nn.Module) -> str:
    found = [getattr(layer, name, None) for name in ("self_attn", "mlp")]
    return " and ".join(type(part or layer).__name__ for part in found if part or not any(found))


def describe(model: nn.Module) -> dict[str, Any]:
    """Sizes of a model for the summary."""
    return {
        "parameters": model.parameters_of(),
        "parameters_without_embedding": model.parameters_of(embedding=False),
        "describe": (
            f"{len(model.layers)} layers of {_parts(model.layers[0])}, hidden {model.hidden_size}, "
            f"vocabulary {model.vocab_size}"
        ),
    }
