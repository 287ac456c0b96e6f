"""A training step on a CPU against its own matrix products and against peers, as JSON.

    python scripts/bench_cpu.py
    python scripts/bench_cpu.py seq_len=256,1024 vocab=8192,32768 alternations=11 threads=2
    python scripts/bench_cpu.py table=result.json

part=<name>        step, loss, waiting, or all (the default); several as step,loss
seq_len=<n>,…      256 by default; vocab=<n>,… 8192 by default; each pair is measured by itself
tokens=<n>         a step, 2048 by default
alternations=<n>   rounds in which the compared things run in turn, 7 by default
steps=<n>          steps a round, 1 by default
threads=<n>        1 by default
precision=<name>   fp32, the default, or bf16
products=<name>    what multiplies: ours (the default: as plm.products chooses, for us alone),
                   all (for the peers too) or torch (for nobody)
peers=<name>,…     of llama, litgpt, nanogpt (the default is all), or none
compile=<name>     both (the default), false (eager alone) or true (compiled alone)
table=<file>       print the figures of an earlier run's JSON as Markdown; nothing is measured
All else goes to the configuration, as with train.py; the scale is about 10 M parameters.

step   forward, backward, clipping and fused AdamW on the same tokens, models of equal parameters;
       and a replay of our step's matrix products and attention alone, by the same library
loss   time and memory of the chunked loss over those of full logits
waiting  OMP_WAIT_POLICY=PASSIVE over the default, a thread a core, alone and beside other load
"""

import contextlib
import json
import os
import sys
import tempfile
from collections.abc import Callable
from importlib.metadata import version
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, Any

# The checkout need not be installed: its root is not where Python looks for a script's imports.
sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from plm.errors import ConfigError, PlmError

if TYPE_CHECKING:
    from scripts.bench_common import Bench

PARTS = ("step", "loss", "waiting")
GOALS = {
    "step_over_replay": "at T=256, at most 1.15 eager and 1.08 compiled",
    "ours_over_llama": "at T=256, at most 0.90 in CPU-seconds, eager",
    "loss": "at V=32768, at most 0.10 of the memory of full logits and 1.05 of their time",
}
SCALE = {
    "hidden_size": 320,
    "num_hidden_layers": 6,
    "num_attention_heads": 5,
    "kv_lora_rank": 128,
    "qk_nope_head_dim": 48,
    "qk_rope_head_dim": 16,
    "v_head_dim": 64,
    "intermediate_size": 1280,
}
LOSS_VOCAB = 32768
"""Of the part loss, whatever vocab= says."""


def stepper(bench: "Bench", contender: Any, precision: str) -> Callable[[], None]:
    """One whole training step of a contender on the bench's tokens."""
    import torch

    from scripts.bench_common import plain_step

    tokens, labels = bench.batch()
    model = contender.model
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-3, fused=True)

    def loss() -> Any:
        mixed = torch.autocast("cpu", torch.bfloat16) if precision == "bf16" else None
        with mixed or contextlib.nullcontext():
            return contender.loss(model, tokens, labels)

    return lambda: plain_step(model, optimizer, loss)


def contenders(bench: "Bench", own: dict[str, Any]) -> tuple[dict[str, Any], dict[str, Any]]:
    """Steps by name ("ours", "ours compiled", …, "replay"), and what is to be said of them."""
    from scripts import bench_cpu_models as models
    from scripts.bench_cpu_replay import record

    first = models.ours(bench)
    target = models.count(first.model)
    left_out = models.missing(own["peers"])
    # Before anything is compiled: a compiled layer shows its products to nobody.
    replay = record(stepper(bench, first, own["precision"]))
    steps: dict[str, Callable[[], None]] = {}
    sizes = {}
    for name in ("ours", *(name for name in own["peers"] if name not in left_out)):
        for compiled in own["compile"]:
            # What the compiler is told must be what multiplies later.
            made = models.ours(bench) if name == "ours" else models.peer(name, bench, target)
            if compiled:
                made.compile(made.model)
            sizes[name] = models.count(made.model)
            steps[f"{name} compiled" if compiled else name] = stepper(bench, made, own["precision"])
    steps["replay"] = replay.run
    counted = 3 * first.model.flops_per_token(bench.seq_len) * bench.rows * bench.seq_len
    about = {
        "parameters": sizes,
        "left_out": left_out,
        "gflop": {"counted": counted / 1e9, "replay": replay.flops / 1e9},
    }
    return steps, about


def choose_products(name: str, choice: str) -> None:
    """Let oneDNN multiply for a contender, or torch as it would."""
    from plm import products

    own = name.startswith(("ours", "replay"))
    if products.mkl_is_slow_here() and (choice == "all" or (choice == "ours" and own)):
        products.use_onednn()
    else:
        products.use_torch()


def bench_step(bench: "Bench", own: dict[str, Any]) -> dict[str, Any]:
    """All contenders in turn."""
    import torch

    from plm import products
    from scripts.bench_common import Took, alternate, ratio, seconds, timed

    torch.compiler.reset()
    steps, about = contenders(bench, own)

    def measured(name: str, number: int) -> Took:
        choose_products(name, own["products"])
        # A model is compiled in its first step, the first time that it is measured.
        products.tell_compiler()
        return timed(lambda: [steps[name]() for _ in range(number)])

    warm = {name: [measured(name, 1).wall_s for _ in range(2)] for name in steps}
    took = alternate(
        {name: lambda name=name: measured(name, bench.steps) for name in steps}, bench.rounds
    )
    ways = ["ours compiled" if compiled else "ours" for compiled in own["compile"]]
    number = bench.steps * bench.rows * bench.seq_len
    found = {name: seconds(t) for name, t in took.items()}
    return {
        **about,
        "step_over_replay": {way: ratio(took[way], took["replay"]) for way in ways},
        "ours_over": {
            name: ratio(took["ours compiled" if name.endswith(" compiled") else "ours"], times)
            for name, times in took.items()
            if not name.startswith(("ours", "replay"))
        },
        "seconds": found,
        "tokens_per_cpu_s": {name: number / s["cpu_s"]["median"] for name, s in found.items()},
        "first_step_wall_s": {name: w[0] for name, w in warm.items() if name.endswith("compiled")},
        "shapes": bench.shapes,
    }


def bench_loss(bench: "Bench", own: dict[str, Any]) -> dict[str, Any]:
    """The chunked loss and torch's over full logits, with both gradients."""
    import torch
    import torch.nn.functional as F

    from plm.kernels import linear_cross_entropy
    from scripts.bench_common import allocated_peak, alternate, ratio, seconds, timed

    rows, width = bench.rows * bench.seq_len, bench.settings["model"]["hidden_size"]
    generator = torch.Generator().manual_seed(0)
    dtype = torch.bfloat16 if own["precision"] == "bf16" else torch.float32
    draw = [torch.randn(n, width, generator=generator) for n in (rows, LOSS_VOCAB)]
    hidden, weight = (
        (x * s).to(dtype).requires_grad_() for x, s in zip(draw, (1, 0.02), strict=True)
    )
    labels = torch.randint(0, LOSS_VOCAB, (rows,), generator=generator)

    def chunked() -> None:
        total = linear_cross_entropy(hidden, weight, labels).total / rows
        torch.autograd.grad(total, (hidden, weight))

    def full() -> None:
        loss = F.cross_entropy(F.linear(hidden, weight), labels)
        torch.autograd.grad(loss, (hidden, weight))

    choose_products("ours", own["products"])
    calls = {"chunked": chunked, "full": full}
    for call in calls.values():
        call()
    took = alternate(
        {name: lambda call=call: timed(call) for name, call in calls.items()}, bench.rounds
    )
    peaks = {name: allocated_peak(call) for name, call in calls.items()}
    # Both end with the gradients themselves, which no form of the loss can do without.
    gradients = sum(x.numel() * x.element_size() for x in (hidden, weight))
    extra = {name: peak - gradients for name, peak in peaks.items()}
    return {
        "time_chunked_over_full": ratio(took["chunked"], took["full"]),
        "peak_bytes": peaks,
        "peak_chunked_over_full": peaks["chunked"] / peaks["full"],
        "gradient_bytes": gradients,
        "extra_chunked_over_full": extra["chunked"] / extra["full"],
        "seconds": {name: seconds(t) for name, t in took.items()},
        "shapes": {"rows": rows, "hidden_size": width, "vocab_size": LOSS_VOCAB},
    }


def _whole(key: str, value: str) -> int:
    if not value.isdigit() or int(value) < 1:
        raise ConfigError(f"{key}={value} is not a whole number of at least 1")
    return int(value)


def _one_of(key: str, value: str, choices: tuple[str, ...]) -> str:
    if value not in choices:
        raise ConfigError(f"{key}={value} is not one of {', '.join(choices)}")
    return value


def _peers(key: str, value: str) -> tuple[str, ...]:
    known = ("llama", "litgpt", "nanogpt")
    return () if value == "none" else tuple(_one_of(key, n, known) for n in value.split(","))


_COMPILE = {"both": (False, True), "false": (False,), "true": (True,)}
_OWN: dict[str, tuple[Any, Callable[[str, str], Any]]] = {
    "part": (PARTS, lambda k, v: PARTS if v == "all" else tuple(
        _one_of(k, name, PARTS) for name in v.split(","))),
    "seq_len": ((256,), lambda k, v: tuple(_whole(k, n) for n in v.split(","))),
    "vocab": ((8192,), lambda k, v: tuple(_whole(k, n) for n in v.split(","))),
    "tokens": (2048, _whole),
    "alternations": (7, _whole),
    "steps": (1, _whole),
    "threads": (1, _whole),
    "precision": ("fp32", lambda k, v: _one_of(k, v, ("fp32", "bf16"))),
    "peers": (("llama", "litgpt", "nanogpt"), _peers),
    "products": ("ours", lambda k, v: _one_of(k, v, ("ours", "all", "torch"))),
    "compile": (_COMPILE["both"], lambda k, v: _COMPILE[_one_of(k, v, tuple(_COMPILE))]),
    "table": (None, lambda k, v: Path(v)),
}  # fmt: skip


def read_arguments(arguments: list[str]) -> tuple[dict[str, Any], list[str]]:
    """This script's own keys, and the rest for the configuration."""
    own: dict[str, Any] = {key: default for key, (default, _) in _OWN.items()}
    rest = []
    for argument in arguments:
        key, sign, value = argument.partition("=")
        if sign and key in _OWN:
            own[key] = _OWN[key][1](key, value)
        else:
            rest.append(argument)
    if own["alternations"] < 2:
        raise ConfigError("alternations=1 has no spread; at least 2, better 7")
    for seq_len in own["seq_len"]:
        if own["tokens"] % seq_len:
            raise ConfigError(f"tokens={own['tokens']} is not a multiple of seq_len={seq_len}")
    return own, rest


def make_bench(
    own: dict[str, Any], rest: list[str], folder: Path, seq_len: int, vocab: int
) -> "Bench":
    """The configured shapes at a length and a vocabulary."""
    from scripts.bench_common import Bench
    from scripts.plan import compose

    overrides = ["+experiment=plm_pretrain", "scale=micro", f"data.dir={folder / 'data'}"]
    overrides += [f"scale.{key}={value}" for key, value in SCALE.items()]
    overrides += [f"scale.seq_len={seq_len}", f"scale.vocab_size={vocab}"]
    overrides += [f"scale.micro_batch_size={own['tokens'] // seq_len}"]
    overrides += [f"scale.global_batch_tokens={own['tokens']}", f"threads={own['threads']}", *rest]
    settings = compose(overrides)
    return Bench(settings, overrides, folder, own["alternations"], own["steps"])


def run(own: dict[str, Any], rest: list[str], folder: Path) -> dict[str, Any]:
    """Measure the parts that were asked for."""
    # Before torch is imported.
    os.environ["OMP_NUM_THREADS"] = str(own["threads"])
    import torch

    from plm import products
    from plm.memory import keep_freed_memory
    from plm.precision import precision_of
    from scripts.bench_common import conditions

    torch.set_num_threads(own["threads"])
    precision_of(own["precision"], "cpu")
    # As in a run; the peers in this process get the same.
    keep_freed_memory()
    found: dict[str, Any] = {"goals": GOALS, "scale": SCALE, "command": " ".join(sys.argv)}
    if "step" in own["part"]:
        found["step"] = {
            f"T={seq_len} V={vocab}": bench_step(make_bench(own, rest, folder, seq_len, vocab), own)
            for seq_len in own["seq_len"]
            for vocab in own["vocab"]
        }
    if "loss" in own["part"]:
        bench = make_bench(own, rest, folder, own["seq_len"][0], own["vocab"][0])
        found["loss"] = bench_loss(bench, own)
    if "waiting" in own["part"]:
        from scripts.bench_cpu_waiting import bench_waiting

        found["waiting"] = bench_waiting(own, rest)
    here = {**conditions(), "dtype": own["precision"], "products": own["products"]}
    if find_spec("litgpt"):
        here["versions"]["litgpt"] = version("litgpt")
    here["onednn_for_fp32"] = own["products"] != "torch" and products.mkl_is_slow_here()
    here["omp_wait_policy"] = os.environ.get("OMP_WAIT_POLICY", "default")
    return {**found, "conditions": here}


def main(arguments: list[str]) -> int:
    """Print the figures; the exit code."""
    if any(argument in ("-h", "--help") for argument in arguments):
        print(__doc__)
        return 0
    try:
        own, rest = read_arguments(arguments)
        if own["table"] is not None:
            from scripts.bench_cpu_table import as_markdown, read

            print(as_markdown(read(own["table"])))
            return 0
        with tempfile.TemporaryDirectory(prefix="bench-") as folder:
            print(json.dumps(run(own, rest, Path(folder)), indent=1))
    except PlmError as error:
        print(error, file=sys.stderr)
        return error.exit_code
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
