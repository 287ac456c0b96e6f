"""Size, held-out loss and speed of a run's GGUF files, one a type, as llama.cpp runs them.

    python scripts/gguf_table.py run=runs/plm_pretrain-1a2b3c

run=<folder>          a run; its recipe's held-out text is what the losses are of
types=[F32,F16,BF16,Q8_0,Q4_0,Q4_K_M]
windows=16            windows of the run's longest seq_len, a source
prompt=64 new=64      tokens that the speed is measured on
repeats=5             of the speed, the types taking turns
threads=<cores>       of llama.cpp
llama_cpp=<path>      libllama of your own; otherwise the one that `make llama-cpp` fetched
json=<file>           also write the figures there

Losses are in nats a token, over windows that are plain text: documents in a window see each other,
in llama.cpp as in ours (the row `ours`). A type that the widths do not fit is named and left out.
"""

import json
import sys
import tempfile
from pathlib import Path
from statistics import median
from typing import Any

# The checkout need not be installed: its root is not where Python looks for a script's imports.
sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from plm.errors import ConfigError, PlmError

DEFAULTS: dict[str, Any] = {
    "run": None,
    "types": ["F32", "F16", "BF16", "Q8_0", "Q4_0", "Q4_K_M"],
    "windows": 16,
    "prompt": 64,
    "new": 64,
    "repeats": 5,
    "threads": None,
    "llama_cpp": None,
    "json": None,
}
_NUMBERS = ("windows", "prompt", "new", "repeats", "threads")


def held_out(run: str, windows: int) -> dict[str, Any]:
    """[N, T + 1] tokens of each source, spread over its held-out text as a run's evaluation is."""
    import numpy as np

    from plm.app import load_frozen
    from plm.data.open import open_data
    from plm.phases import Plan
    from plm.stages.evaluate import spread

    settings, _ = load_frozen(run)
    prepared = open_data(settings["data"])
    seq_len = Plan.read(settings["phases"]).max_seq_len
    found = {}
    for name, parts in prepared.sources.items():
        stream = parts["val"]
        starts = spread(stream.n_tokens, seq_len, windows)
        found[name] = np.stack([stream.tokens(int(s), seq_len + 1) for s in starts])
    return found


def our_losses(found: Any, rows: dict[str, Any]) -> dict[str, float]:
    """Ours in fp32 on the same windows."""
    import torch
    import torch.nn.functional as F

    from plm.model.context import Context

    losses = {}
    for name, windows in rows.items():
        tokens = torch.from_numpy(windows.astype("int64"))
        total = 0.0
        with torch.no_grad():
            for row in tokens:
                context = Context(
                    positions=torch.arange(len(row) - 1)[None], rope_theta=found.rope_theta
                )
                logits = found.model(row[None, :-1], context=context).logits[0]
                total += float(F.cross_entropy(logits, row[1:], reduction="sum"))
        losses[name] = total / (tokens.shape[0] * (tokens.shape[1] - 1))
    return losses


def check(chosen: dict[str, Any]) -> None:
    """Raise ConfigError for a setting that cannot work."""
    from plm.export.gguf import DIRECT
    from plm.formats.llama_cpp import KINDS

    if not chosen["run"]:
        raise ConfigError("run=<run folder> is missing, for example run=runs/plm_pretrain")
    for key in _NUMBERS:
        if chosen[key] is not None and chosen[key] < 1:
            raise ConfigError(f"{key}={chosen[key]} must be at least 1")
    for kind in chosen["types"]:
        if kind not in (*DIRECT, *KINDS):
            raise ConfigError(f"types: {kind} is none of {', '.join((*DIRECT, *KINDS))}")


def measure(chosen: dict[str, Any]) -> dict[str, Any]:
    """The figures of all types."""
    from plm.data import tokenizer as bpe
    from plm.data.pool import cores
    from plm.export.gguf import gguf
    from plm.formats.common import About
    from plm.formats.llama_cpp import LlamaCpp
    from scripts.loading import loaded

    found = loaded({**chosen, "weights": "last"})
    rows = held_out(chosen["run"], chosen["windows"])
    about = About(Path(chosen["run"]).name, found.end_of_text, found.rope_theta)
    tokenizer = bpe.load(found.tokenizer) if found.tokenizer else None
    threads = chosen["threads"] or cores()
    longest = max(*(w.shape[1] for w in rows.values()), chosen["prompt"] + chosen["new"])
    figures, left_out, speeds = {}, {}, {}
    with tempfile.TemporaryDirectory(prefix="plm-gguf-") as place:
        for kind in chosen["types"]:
            try:
                file = gguf(
                    found.model, tokenizer, Path(place) / f"{kind}.gguf", about=about, kind=kind,
                    library=chosen["llama_cpp"],
                )  # fmt: skip
            except ConfigError as error:
                left_out[kind] = str(error)
                continue
            with LlamaCpp(
                file, n_ctx=longest, library=chosen["llama_cpp"], threads=threads
            ) as peer:
                sums = {name: peer.losses(windows) for name, windows in rows.items()}
            losses = {name: total / count for name, (total, count) in sums.items()}
            figures[kind] = {"bytes": file.stat().st_size, "losses": losses}
            speeds[kind] = []
        for _ in range(chosen["repeats"]):
            for kind, taken in speeds.items():
                file = Path(place) / f"{kind}.gguf"
                with LlamaCpp(
                    file, n_ctx=longest, library=chosen["llama_cpp"], threads=threads, kv_type="f16"
                ) as peer:
                    prompt = rows[next(iter(rows))][0, : chosen["prompt"]].tolist()
                    taken.append(peer.speed(prompt, chosen["new"], repeats=1))
    for kind, taken in speeds.items():
        for what in ("prefill_tokens_s", "decode_tokens_s"):
            values = sorted(one[what] for one in taken)
            figures[kind][what] = {"median": median(values), "least": values[0], "most": values[-1]}
    return {
        "run": chosen["run"],
        "parameters": sum(p.numel() for p in found.model.parameters()),
        "threads": threads,
        "windows": {name: list(w.shape) for name, w in rows.items()},
        "ours": our_losses(found, rows),
        "types": figures,
        "left_out": left_out,
    }


def table(result: dict[str, Any]) -> str:
    """The figures as lines for a terminal."""
    sources = list(result["ours"])
    rows = [["type", "MB", *sources, "prefill tok/s", "decode tok/s"]]
    rows.append(["ours, fp32", "", *(f"{result['ours'][s]:.4f}" for s in sources), "", ""])
    for kind, found in result["types"].items():
        speed = [
            f"{found[w]['median']:.0f} ({found[w]['least']:.0f}–{found[w]['most']:.0f})"
            for w in ("prefill_tokens_s", "decode_tokens_s")
        ]
        losses = [f"{found['losses'][s]:.4f}" for s in sources]
        rows.append([kind, f"{found['bytes'] / 1e6:.2f}", *losses, *speed])
    widths = [max(len(row[i]) for row in rows) for i in range(len(rows[0]))]
    lines = [
        "  ".join(c.ljust(w) for c, w in zip(row, widths, strict=True)).rstrip() for row in rows
    ]
    lines += [f"left out: {kind}: {why}" for kind, why in result["left_out"].items()]
    return "\n".join(lines)


def main(arguments: list[str]) -> int:
    """Exit code: 0, or 2 for what the user can put right."""
    if any(argument in ("-h", "--help") for argument in arguments):
        print(__doc__)
        return 0
    from scripts.arguments import read

    try:
        chosen = read(arguments, DEFAULTS, numbers=_NUMBERS, lists=("types",))
        check(chosen)
        result = measure(chosen)
    except PlmError as error:
        print(f"error: {error}", file=sys.stderr)
        return error.exit_code
    print(table(result))
    if chosen["json"]:
        Path(chosen["json"]).write_text(json.dumps(result, indent=1) + "\n", encoding="utf-8")
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
