"""A run folder as a finished three-phase run leaves it, made of formulas."""

import csv
import json
import math
import random
from pathlib import Path

import pytest

SOURCES = {"prose": 0.6, "code": 0.25, "math": 0.15}
PHASES = [
    ("stable", 1_862_000, {"shape": "hold", "to": 1.0, "warmup_tokens": 80_000}, SOURCES),
    ("decay", 621_600, {"shape": "one_minus_sqrt", "to": 0.0167}, SOURCES),
    (
        "constant",
        316_400,
        {"shape": "hold", "to": 0.0167},
        {"prose": 0.4, "code": 0.3, "math": 0.3},
    ),
]
LAYERS = 6
FLOORS = {"prose": 4.1, "code": 3.3, "math": 1.2}
SAMPLE = "def area(r):\n    return 3.14 * r ** 2 if r > 0 else <b>0</b> & None\n\x00\tprint(1)"


def rate_at(tokens: float) -> float:
    if tokens < 80_000:
        return 2e-3 * tokens / 80_000
    share = min(1.0, max(0.0, (tokens - 1_862_000) / 621_600))
    return 2e-3 * (1 - 0.9833 * math.sqrt(share))


def metric_rows(rows: int = 300) -> list[dict]:
    """Rows of metrics.csv with noise, a spike in the gradient norm, some evaluated."""
    noise, total = random.Random(0), sum(phase[1] for phase in PHASES)
    read, table, tokens = dict.fromkeys(SOURCES, 0.0), [], 0
    ends = [sum(phase[1] for phase in PHASES[: index + 1]) for index in range(len(PHASES))]
    for index in range(1, rows + 1):
        before, tokens = tokens, round(total * index / rows)
        name, _, _, mixture = PHASES[sum(before >= end for end in ends)]
        for source, share in mixture.items():
            read[source] += share * (tokens - before) * noise.uniform(0.9, 1.1)
        level = 3.2 + 5.1 / (1 + tokens / 90_000) ** 0.75 - 0.2 * (tokens > 1_862_000)
        row = {
            "step": index * 5,
            "tokens": tokens,
            "phase": name,
            "loss": f"{level + noise.gauss(0, 0.09):.6f}",
            "lr": f"{rate_at(tokens):.6g}",
            "grad_norm": f"{0.6 * noise.lognormvariate(0, 0.3) * (40 if index == 170 else 1):.5f}",
            "tokens_per_s": f"{13_100 * noise.uniform(0.85, 1.05):.1f}",
            "mfu": f"{0.41 * noise.uniform(0.85, 1.05):.4f}",
            "peak_gib": "0.812",
            "data_wait_s": "0.004",
            "elapsed_s": f"{tokens / 12_400:.2f}",
            "aux/z_loss": f"{0.02 * noise.uniform(0.8, 1.2):.5f}",
        }
        for layer in range(LAYERS):
            zeros = 0.5 + 0.07 * layer * (1 - math.exp(-tokens / 600_000)) + noise.gauss(0, 0.01)
            row[f"sparsity/{layer}"] = f"{zeros:.4f}"
        for source, amount in read.items():
            row[f"mix/{source}"] = round(amount)
        if index % 20 == 0 or index == 1:
            losses = {s: f + 4.6 / (1 + tokens / 90_000) ** 0.8 for s, f in FLOORS.items()}
            for source, loss in losses.items():
                row[f"val/{source}/loss"] = f"{loss:.5f}"
                row[f"val/{source}/bpb"] = f"{loss / 2.1:.5f}"
            row["val/loss"] = f"{sum(losses.values()) / 3 + 0.3:.5f}"
        table.append(row)
    return table


def ngrams(*nats: float) -> dict[str, float]:
    return dict(
        zip(
            ("unigram", "bigram_add_one", "bigram_kneser_ney", "trigram_kneser_ney"),
            nats,
            strict=True,
        )
    )


def summary() -> dict:
    """What a finished run says of itself."""
    starts = [0, 1_862_000, 2_483_600]
    return {
        "name": "plm_pretrain-3fa9c1",
        "stage": "pretrain",
        "status": "done",
        "model": {
            "parameters": 1_834_560,
            "parameters_without_embedding": 1_310_272,
            "describe": "6 layers, width 160, MLA (latent 64), squared ReLU, 4,096 tokens",
        },
        "tokens": 2_800_000,
        "steps": 1500,
        "phases": [
            {
                "name": name,
                "tokens_asked": tokens - 37,
                "tokens": tokens,
                "seq_len": 256,
                "steps": tokens // 1866,
                "start_tokens": start,
                "rate": rate,
                "mixture": mixture,
            }
            for start, (name, tokens, rate, mixture) in zip(starts, PHASES, strict=True)
        ],
        "sources": {
            name: {
                "asked_share": share,
                "tokens_asked": round(share * 2_800_000),
                "tokens_read": round(share * 2_801_300),
                "epochs": share / 3,
            }
            for name, share in {"prose": 0.5774, "code": 0.2557, "math": 0.1669}.items()
        },
        "val_before": {name: {"loss": 8.318, "bpb": 3.961} for name in SOURCES},
        "val_after": {n: {"loss": f + 0.27, "bpb": (f + 0.27) / 2.1} for n, f in FLOORS.items()},
        "ngrams": {
            "prose": ngrams(6.512, 5.704, 4.611, 4.222),
            "code": ngrams(6.708, 5.209, 4.607, 3.402),
            "math": ngrams(4.313, 3.105, 2.214, 1.511),
        },
        "samples": [
            {
                "source": "prose",
                "prompt": "Return the number of",
                "text": " the model. The value is used\n\n    Args:\n        x: an array.",
                "settings": {"temperature": 0.8, "top_p": 0.95, "seed": 0},
            },
            {
                "source": "code",
                "prompt": "def area(r):",
                "text": SAMPLE,
                "settings": {"temperature": 0.8, "top_p": 0.95, "seed": 1},
            },
        ],
        "speed": {"tokens_per_s": 12_400.0, "mfu": 0.402, "seconds": 226.0, "peak_gib": 0.812},
        "versions": {"python": "3.11.2", "torch": "2.13.0", "lightning": "2.6.6", "plm": "0.1.0"},
        "cpu": {"model": "8-core test machine", "instructions": "avx2", "threads": 2},
        "data": {
            "fingerprint": "9f2c41d07be8a1c355aa",
            "comparable": False,
            "why": "torch is 2.12.0 and not 2.13.0",
            "leak": {"prose": 0.024, "code": 0.018, "math": 0.0},
        },
        "command": "python train.py +experiment=plm_pretrain scale=nano",
    }


def manifest() -> dict:
    licences = {"torch": "BSD-3-Clause", "numpy": "BSD-3-Clause", "python": "PSF-2.0"}
    return {
        "sources": {
            "prose": {**splits(41_230, 8_100_000), "licences": licences},
            "code": {**splits(9_800, 9_000_000), "licences": licences, **lost(10_000, 600)},
            "math": {**splits(60_000, 5_300_000), "licence": "CC0-1.0", **lost(90_000, 20_000)},
        }
    }


def splits(documents: int, tokens: int) -> dict:
    val = {"documents": documents // 20, "tokens": tokens // 20}
    return {"train": {"documents": documents, "tokens": tokens}, "val": val}


def lost(came_in: int, long: int) -> dict:
    dropped, examples = {"longer <than> block": long}, {"longer <than> block": [["a.jsonl:7", "…"]]}
    told = {"dropped": dropped, "lost": {}, "changed": {}, "examples": examples, "why": {}}
    return {"came_in": came_in, "steps": {"encoding": told}}


def write_metrics(folder: Path, rows: list[dict]) -> None:
    columns = list(dict.fromkeys(name for row in rows for name in row))
    with (folder / "metrics.csv").open("w", newline="") as stream:
        writer = csv.DictWriter(stream, columns, restval="")
        writer.writeheader()
        writer.writerows(rows)


def build_run(folder: Path, rows: int = 300) -> Path:
    """A finished run in a folder that does not exist yet."""
    folder.mkdir(parents=True)
    write_metrics(folder, metric_rows(rows))
    (folder / "summary.json").write_text(json.dumps(summary()))
    (folder / "manifest.json").write_text(json.dumps(manifest()))
    text = "scale:\n  hidden_size: 160\nseed: 0\nphases:\n  stable: {tokens: 1862000}\n"
    (folder / "config.yaml").write_text(text + "note: <kept & escaped>\n")
    return folder


@pytest.fixture
def run_folder(tmp_path: Path) -> Path:
    return build_run(tmp_path / "plm_pretrain-3fa9c1")
