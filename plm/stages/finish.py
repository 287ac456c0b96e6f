"""The end of a run: held-out figures, baselines, samples, manifest, summary, report."""

import json
import logging
import math
import os
import platform
import shutil
import sys
from importlib.metadata import PackageNotFoundError, version
from typing import Any

import torch

from plm.callbacks.evaluation import latest
from plm.callbacks.loggers import keep_lineage
from plm.callbacks.recorder import Recorder
from plm.checkpoint import write_atomic
from plm.report.format import human_time, human_tokens
from plm.report.page import write_report
from plm.stages.summary import describe

log = logging.getLogger("plm")

PACKAGES = ("torch", "lightning", "hydra-core", "tokenizers", "transformers", "numpy", "plm")


def finish(job: Any, trainer: Any, recorder: Recorder, before: dict[str, Any]) -> None:
    """Evaluate, sample, write what the run was and print it.

    Args:
        job: the run.
        trainer: whose fit has ended.
        recorder: with the speed of this process.
        before: held-out figures before training.
    """
    after = job.evaluate()
    if job.rank != 0:
        return
    baselines = _baselines(job)
    samples = job.stage.samples(job)
    settings = job.settings
    summary = {
        "name": job.folder.path.name,
        "stage": job.stage_name,
        "status": "done",
        "model": describe(job.model),
        "tokens": job.plan.total_tokens,
        "steps": job.plan.total_steps,
        "phases": phases(job),
        "sources": sources(job),
        "val_before": before,
        "val_after": after,
        "evaluations": latest(trainer.callbacks),
        "ngrams": baselines,
        "samples": samples,
        "speed": _speed(job, recorder),
        "versions": versions(),
        "cpu": {
            "capability": torch.backends.cpu.get_cpu_capability(),
            "threads": torch.get_num_threads(),
            "cores": os.cpu_count(),
            "machine": platform.machine(),
        },
        "data": _data(job),
        "command": settings.get("command"),
    }
    write_atomic(job.folder.path / "summary.json", json.dumps(summary, indent=1))
    write_atomic(job.folder.path / "manifest.json", json.dumps(manifest(job), indent=1))
    lines = "".join(json.dumps(sample) + "\n" for sample in samples)
    write_atomic(job.folder.path / "samples.jsonl", lines)
    report = write_report(job.folder.path)
    evaluations = summary["evaluations"]
    job.folder.set_status(
        "done", tokens=job.stage.tokens_seen, val=after, evaluations=evaluations, exit_code=0
    )
    keep_lineage(trainer.loggers, job.folder.path, job.origin["path"])
    _print(job, summary, report)


def _baselines(job: Any) -> dict[str, Any]:
    if not job.settings["validation"]["baselines"]:
        return {}
    from plm.analysis.ngram import ngram_baselines

    try:
        return ngram_baselines(job.prepared)
    except MemoryError:
        log.warning("no n-gram baselines: counting them does not fit the memory")
        return {}


def phases(job: Any) -> list[dict[str, Any]]:
    """Each phase as it was realised."""
    return [
        {
            "name": p.phase.name,
            "tokens_asked": p.phase.tokens,
            "tokens": p.tokens,
            "seq_len": p.phase.seq_len,
            "steps": p.steps,
            "start_tokens": p.start_tokens,
            "rate": {
                "shape": p.phase.rate.shape,
                "to": p.phase.rate.to,
                "warmup_tokens": p.phase.rate.warmup_tokens,
            },
            "mixture": p.shares(),
        }
        for p in job.plan.phases
    ]


def sources(job: Any) -> dict[str, dict[str, float]]:
    """What each source was to give, gave, and how often it was read through."""
    if hasattr(job.order, "told"):
        return job.order.told()
    read = job.order.read(0, job.plan.total_steps)
    asked = dict.fromkeys(read, 0.0)
    for p in job.plan.phases:
        for name, share in p.shares().items():
            asked[name] += p.tokens * share
    return {
        name: {
            "asked_share": asked[name] / job.plan.total_tokens,
            "tokens_asked": round(asked[name]),
            "tokens_read": tokens,
            "epochs": tokens / (job.order.blocks[name] * job.order.block_tokens),
        }
        for name, tokens in read.items()
    }


def manifest(job: Any) -> dict[str, Any]:
    """What was read: sources, documents, hashes, tokens asked and read, epochs."""
    data = {k: v for k, v in job.prepared.manifest.items() if k != "ngrams"}
    return {**data, "fingerprint": job.prepared.fingerprint, "read": sources(job),
            "origin": job.origin}  # fmt: skip


def _speed(job: Any, recorder: Recorder) -> dict[str, Any]:
    seconds, stepped = max(recorder.speed["seconds"], 1e-9), recorder.speed["tokens"] > 0
    mfu = stepped and recorder.peak
    rows = [float(r["peak_gib"]) for r in recorder.table.rows if r.get("peak_gib")]
    return {
        # A process that only ended the run took no step.
        "tokens_per_s": recorder.speed["tokens"] / seconds if stepped else None,
        "mfu": recorder.speed["flops"] / seconds / recorder.peak if mfu else None,
        "seconds": recorder.total_elapsed(),
        "peak_gib": max(rows, default=None),
    }


def _data(job: Any) -> dict[str, Any]:
    found = job.prepared.manifest
    return {
        "fingerprint": job.prepared.fingerprint,
        "comparable": found.get("comparable", True),
        "why": "; ".join(found.get("not_comparable_because", [])),
        "leak": {n: s["leak"]["share"] for n, s in found["sources"].items() if "leak" in s},
    }


def versions() -> dict[str, str]:
    """Versions of what the figures depend on."""
    found = {"python": sys.version.split()[0]}
    for name in PACKAGES:
        try:
            found[name] = version(name)
        except PackageNotFoundError:
            continue
    return found


def _print(job: Any, summary: dict[str, Any], report: Any) -> None:
    log.info("")
    counted = "   n-grams (nats)" if summary["ngrams"] else ""
    pairs = bool(job.prepared.pairs)
    figure, said = ("accuracy", "accuracy") if pairs else ("bpb", "bits/byte")
    of, head = "loss", "held-out"
    if any("reward" in found for found in summary["val_after"].values()):
        # The loss is what a reward lacks of 1, which nobody reads.
        of, head, figure, said = "reward", "reward", "tokens", "tokens"
    if summary["val_after"]:
        log.info("%-10s %9s %9s %9s%s", head, "before", "after", said, counted)
    for name, after in summary["val_after"].items():
        before = summary["val_before"].get(name, {}).get(of, float("nan"))
        grams = summary["ngrams"].get(name, {})
        text = "  ".join(f"{key} {value:.3f}" for key, value in grams.items())
        third = after.get(figure, math.nan)
        line = f"{name:10s} {before:9.4f} {after[of]:9.4f} {third:9.4f}   {text}"
        log.info("%s", line.rstrip())
    for sample in summary["samples"][:: max(1, job.settings["samples"]["number"])]:
        log.info("\n[%s] %s ▸ %s", sample["source"], sample["prompt"], sample["text"])
    speed, path = summary["speed"], job.folder.path
    rate = f", {human_tokens(speed['tokens_per_s'])} tokens/s" if speed["tokens_per_s"] else ""
    log.info(
        "\n%s tokens in %s%s; report: %s",
        human_tokens(summary["tokens"]),
        human_time(speed["seconds"]),
        rate,
        report,
    )
    log.info(
        "next: %s scripts/chat.py run=%s; scripts/evaluate.py, scripts/export.py (--help)",
        python_here(),
        path,
    )


def python_here() -> str:
    """How this interpreter is called on a command line: an environment may not be active."""
    found = shutil.which("python")
    if found is not None and os.path.abspath(found) == os.path.abspath(sys.executable):
        return "python"
    near = os.path.relpath(sys.executable)
    return sys.executable if near.startswith("..") else near
