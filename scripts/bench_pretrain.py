"""Benchmarks of pretraining against its peers, as JSON with ratios, spread and conditions.

    python scripts/bench_pretrain.py
    python scripts/bench_pretrain.py part=stage alternations=11 threads=2 scale=nano

part=<name>        model, stage, start, share, or all (the default); several as model,share
alternations=<n>   rounds in which the compared things run in turn, 7 by default
steps=<n>          steps a round, 1 by default; part=stage compares single steps
threads=<n>        of this process and of what it starts, 1 by default
All else goes to the configuration, as with train.py; the scale is nano if none is given.

model   tokens/s and memory of our model over transformers' Llama of equal parameters, plain loop
stage   the stage as train.py runs it over the same model and batches in a plain loop
start   from the command to the first step, less `import lightning` and an empty fit; and --help
share   of the fp32 matmul rate of this machine that a training step reaches
"""

import json
import os
import sys
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

# The checkout need not be installed: its root is not where Python looks for a script's imports.
sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from plm.errors import ConfigError, PlmError

if TYPE_CHECKING:
    from scripts.bench_common import Bench

PARTS = ("model", "stage", "start", "share")
GOALS = {
    "stage": "at most 1.03 in CPU-seconds",
    "start": "at most 2 s more; --help under 1.5 s",
    "share": "0.6 or more",
}


def llama_like(model: Any, settings: dict) -> Any:
    """transformers' Llama of the same width, depth, vocabulary and, by its feed-forward, size."""
    from transformers import LlamaConfig, LlamaForCausalLM

    scale = settings["scale"]
    width, depth = scale["hidden_size"], scale["num_hidden_layers"]
    head = width // scale["num_attention_heads"]
    rest = model.parameters_of() - scale["vocab_size"] * width - width
    layer = rest / depth - 4 * width * width - 2 * width
    made = LlamaForCausalLM(
        LlamaConfig(
            vocab_size=scale["vocab_size"],
            hidden_size=width,
            intermediate_size=8 * round(layer / (3 * width) / 8),
            num_hidden_layers=depth,
            num_attention_heads=scale["num_attention_heads"],
            num_key_value_heads=scale["num_attention_heads"],
            head_dim=head,
            max_position_embeddings=scale["max_position_embeddings"],
            tie_word_embeddings=True,
            use_cache=False,
            attn_implementation="sdpa",
        )
    )
    return made.train()


def bench_model(bench: "Bench") -> dict[str, Any]:
    """Ours and Llama, each a plain loop of micro-batches over the same tokens."""
    import torch

    from plm.loss.cross_entropy import cross_entropy
    from plm.model.context import Context
    from scripts.bench_common import allocated_peak, alternate, plain_step, ratio, seconds, timed

    tokens, labels = bench.batch()
    positions = torch.arange(bench.seq_len).expand(bench.rows, -1)
    ours = bench.our_model()
    torch.manual_seed(0)
    llama = llama_like(ours, bench.settings)
    sizes = {"ours": ours.parameters_of(), "llama": sum(p.numel() for p in llama.parameters())}
    if abs(sizes["ours"] / sizes["llama"] - 1) > 0.01:
        raise ConfigError(f"scale={sizes}: no Llama of this width and depth is within 1 %")

    def our_loss() -> Any:
        context = Context(positions=positions)
        out = ours(tokens, context=context, labels=labels, losses={"ce": cross_entropy})
        return out.losses["ce"].total / labels.numel()

    def llama_loss() -> Any:
        return llama(input_ids=tokens, labels=labels, shift_labels=labels).loss

    steps: dict[str, Callable[[], None]] = {}
    for name, model, loss in (("ours", ours, our_loss), ("llama", llama, llama_loss)):
        optimizer = torch.optim.AdamW(model.parameters(), lr=1e-3, fused=True)
        steps[name] = lambda m=model, o=optimizer, f=loss: plain_step(m, o, f)
        steps[name]()
    took = alternate(
        {
            name: lambda step=step: timed(lambda: [step() for _ in range(bench.steps)])
            for name, step in steps.items()
        },
        bench.rounds,
    )
    number = bench.steps * tokens.numel()
    peaks = {name: allocated_peak(step) for name, step in steps.items()}
    return {
        "parameters": sizes,
        "tokens_per_cpu_s": {
            name: number / seconds(t)["cpu_s"]["median"] for name, t in took.items()
        },
        "tokens_per_s_ours_over_llama": ratio(took["llama"], took["ours"]),
        # Above weights and optimizer state, which are of equal size.
        "peak_bytes_of_a_step": peaks,
        "peak_ours_over_llama": peaks["ours"] / peaks["llama"],
        "shapes": bench.shapes,
    }


def gemm_calls(model: Any, rows: int) -> tuple[Callable[[], None], float]:
    """All matrix products of a step with weights in them, forward and backward; their FLOPs.

    Args:
        model: whose projections and head are taken.
        rows: positions of a micro-batch.
    """
    import torch

    shapes = [tuple(m.weight.shape) for m in model.modules() if isinstance(m, torch.nn.Linear)]
    shapes.append(tuple(model.embed_tokens.head_weight.shape))
    work = [(torch.ones(rows, i), torch.ones(o, i), torch.ones(rows, o)) for o, i in shapes]

    def run() -> None:
        for x, weight, grad in work:
            torch.mm(x, weight.t())
            torch.mm(grad, weight)
            torch.mm(grad.t(), x)

    return run, sum(6.0 * rows * o * i for o, i in shapes)


def bench_share(bench: "Bench") -> dict[str, Any]:
    """A training step's counted FLOPs a CPU-second over those of plain matrix products."""
    import torch

    from plm.loss.cross_entropy import cross_entropy
    from plm.model.context import Context
    from scripts.bench_common import alternate, plain_step, seconds, spread, timed

    tokens, labels = bench.batch()
    positions = torch.arange(bench.seq_len).expand(bench.rows, -1)
    model = bench.our_model()
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-3, fused=True)

    def loss() -> Any:
        context = Context(positions=positions)
        out = model(tokens, context=context, labels=labels, losses={"ce": cross_entropy})
        return out.losses["ce"].total / labels.numel()

    own, own_flops = gemm_calls(model, tokens.numel())
    square = torch.ones(1024, 1024)
    counted = 3 * model.flops_per_token(bench.seq_len) * tokens.numel()
    calls = {
        "step": (lambda: plain_step(model, optimizer, loss), counted),
        "own_sizes": (own, own_flops),
        "square_1024": (lambda: [square @ square for _ in range(8)], 8 * 2 * 1024.0**3),
    }
    for call, _ in calls.values():
        call()
    took = alternate(
        {
            name: lambda call=call: timed(lambda: [call() for _ in range(bench.steps)])
            for name, (call, _) in calls.items()
        },
        bench.rounds,
    )
    rates = {
        name: [bench.steps * calls[name][1] / one.cpu_s for one in times]
        for name, times in took.items()
    }
    return {
        "gflops_a_cpu_s": {name: spread([r / 1e9 for r in rate]) for name, rate in rates.items()},
        "step_over": {
            name: spread([a / b for a, b in zip(rates["step"], rates[name], strict=True)])
            for name in ("own_sizes", "square_1024")
        },
        "seconds": {name: seconds(t) for name, t in took.items()},
        "rounds": bench.rounds,
        "shapes": bench.shapes,
    }


def _settings(arguments: list[str]) -> tuple[dict[str, Any], list[str]]:
    own: dict[str, Any] = {"part": "all", "alternations": 7, "steps": 1, "threads": 1}
    rest = []
    for argument in arguments:
        key, sign, value = argument.partition("=")
        if not sign or key not in own:
            rest.append(argument)
        elif key == "part":
            own[key] = value
        elif not value.isdigit() or int(value) < 1:
            raise ConfigError(f"{key}={value} is not a whole number of at least 1")
        else:
            own[key] = int(value)
    if own["alternations"] < 2:
        raise ConfigError("alternations=1 has no spread; at least 2, better 7")
    own["part"] = PARTS if own["part"] == "all" else tuple(own["part"].split(","))
    for name in own["part"]:
        if name not in PARTS:
            raise ConfigError(f"part={name} is not one of {', '.join(PARTS)} or all")
    return own, rest


def run(own: dict[str, Any], rest: list[str], folder: Path) -> dict[str, Any]:
    """Measure the parts that were asked for."""
    # Before torch is imported, and for the processes that are started.
    os.environ["OMP_NUM_THREADS"] = str(own["threads"])
    import torch

    from plm.config import trust
    from plm.memory import keep_freed_memory
    from scripts.bench_common import Bench, conditions
    from scripts.bench_stage import bench_stage, bench_start
    from scripts.loss_compare import write_text
    from scripts.plan import compose

    torch.set_num_threads(own["threads"])
    # As in a run; the peer in this process gets the same.
    keep_freed_memory()
    overrides = ["+experiment=plm_pretrain", "scale=nano", f"data.dir={folder / 'data'}"]
    overrides += [f"data.path={write_text(folder / 'text')}", *rest]
    settings = compose([*overrides, f"threads={own['threads']}"])
    trust(["scripts"])
    bench = Bench(settings, overrides, folder, own["alternations"], own["steps"])
    calls = {
        "model": bench_model, "stage": bench_stage, "start": bench_start, "share": bench_share
    }  # fmt: skip
    found: dict[str, Any] = {"scale": bench.shapes, "goals": GOALS}
    for name in own["part"]:
        found[name] = calls[name](bench)
    return {**found, "conditions": conditions()}


def main(arguments: list[str]) -> int:
    """Print the figures; the exit code."""
    if any(argument in ("-h", "--help") for argument in arguments):
        print(__doc__)
        return 0
    try:
        own, rest = _settings(arguments)
        with tempfile.TemporaryDirectory(prefix="bench-") as folder:
            print(json.dumps(run(own, rest, Path(folder)), indent=1))
    except PlmError as error:
        print(error, file=sys.stderr)
        return error.exit_code
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
