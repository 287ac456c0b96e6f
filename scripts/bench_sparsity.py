"""What skipping the zeros of a squared ReLU saves, and where a trained model has them, as JSON.

    python scripts/bench_sparsity.py part=chance
    python scripts/bench_sparsity.py part=products,gather alternations=11 block=16
    python scripts/bench_sparsity.py part=model run=runs/plm_pretrain

part=<name>          chance, products, gather, model, or all (the default); several as chance,model
run=<folder>         a finished run, for part=model, which is left out without it
step=<number>        whose batch that model reads, 0 by default
alternations=<n>     rounds in which the compared things run in turn, 7 by default
threads=<n>          1 by default
tokens=<n> hidden=<n> intermediate=<n>    sizes of part=products: 2048, 320, 1280
block=<n>            tokens that products skip columns for together, 64 by default
layers=<n>           weights that part=gather takes in turn, as decoding does, 4 by default

chance    how many tiles are all zero if zeros fall independently, and the sparsity for half of them
products  down-projection and both of its backward products, dense over active columns of a block
gather    down-projection of 1 and 16 tokens, dense over the active rows of a turned weight
model     zeros of each layer's activation by a tile's size, as they lie and with neurons sorted
"""

import json
import os
import sys
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

# The checkout need not be installed: its root is not where Python looks for a script's imports.
sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from plm.errors import ConfigError, PlmError
from scripts.arguments import read

if TYPE_CHECKING:
    from torch import Tensor

PARTS = ("chance", "products", "gather", "model")
SPARSITIES = (0.5, 0.7, 0.8, 0.9, 0.95, 0.98, 0.99)
# Tokens by neurons: a token, a block of tokens, a line of the cache, tiles of a GPU.
TILES = ((1, 1), (16, 1), (64, 1), (256, 1), (1, 16), (16, 16), (64, 64), (128, 64))
# Model's width, feed-forward's width: nano's bigger sister, and PLM-1.8B.
DECODING = ((320, 1280), (2048, 8192))
# Tokens over which "neurons" are zero together.
_TOGETHER = 256
NUMBERS = {
    "step": 0, "alternations": 7, "threads": 1, "tokens": 2048, "hidden": 320,
    "intermediate": 1280, "block": 64, "layers": 4,
}  # fmt: skip


def activation(rows: int, wide: int, sparsity: float, structure: str) -> "Tensor":
    """relu(x) [M, F] with zeros where they fall, or whole neurons over spans of tokens."""
    import torch

    spans = rows if structure == "elements" else -(-rows // _TOGETHER)
    active = torch.rand(spans, wide) >= sparsity
    if structure == "neurons":
        active = active.repeat_interleave(_TOGETHER, 0)[:rows]
    return torch.randn(rows, wide).abs_().mul_(active)


def dense(r: "Tensor", down: "Tensor", grad: "Tensor") -> tuple["Tensor", ...]:
    """y, gradient before the ReLU, gradient of down."""
    import torch

    square = r * r
    y = torch.mm(square, down.t())
    weight = torch.mm(grad.t(), square)
    slope = torch.mm(grad, down, out=square)
    return y, slope.mul_(r).mul_(2), weight


def skipping(
    r: "Tensor", down_turned: "Tensor", grad: "Tensor", block: int
) -> tuple["Tensor", ...]:
    """The same over the neurons that some token of a block uses; down and its gradient [F, D]."""
    import torch

    y, slope = torch.empty_like(grad), torch.zeros_like(r)
    weight = torch.zeros_like(down_turned)
    for start in range(0, len(r), block):
        span = slice(start, start + block)
        columns = (r[span].amax(0) > 0).nonzero()[:, 0]
        positive, matrix = r[span].index_select(1, columns), down_turned.index_select(0, columns)
        square = positive * positive
        torch.mm(square, matrix, out=y[span])
        weight.index_add_(0, columns, torch.mm(square.t(), grad[span]))
        inside = torch.mm(grad[span], matrix.t(), out=square)
        slope[span].index_copy_(1, columns, inside.mul_(positive).mul_(2))
    return y, slope, weight


def bench_products(own: dict[str, Any]) -> list[dict[str, Any]]:
    """Dense over skipping, at each sparsity and structure."""
    import torch

    from scripts.bench_common import alternate, ratio, seconds, timed

    rows, size, wide = own["tokens"], own["hidden"], own["intermediate"]
    down, grad = torch.randn(size, wide), torch.randn(rows, size)
    turned, found = down.t().contiguous(), []
    for structure in ("elements", "neurons"):
        for sparsity in SPARSITIES:
            r = activation(rows, wide, sparsity, structure)
            whole, parts = dense(r, down, grad), skipping(r, turned, grad, own["block"])
            for a, b in zip(whole, (*parts[:2], parts[2].t()), strict=True):
                torch.testing.assert_close(a, b, rtol=1e-4, atol=1e-4 * float(a.abs().max()))
            calls: dict[str, Callable[[], Any]] = {
                "dense": lambda r=r: dense(r, down, grad),
                "skipping": lambda r=r: skipping(r, turned, grad, own["block"]),
            }
            took = alternate(
                {name: lambda call=call: timed(call) for name, call in calls.items()},
                own["alternations"],
            )
            blocks = r.split(own["block"])
            used = sum(int(b.amax(0).count_nonzero()) for b in blocks) / (wide * len(blocks))
            found.append(
                {
                    "structure": structure,
                    "sparsity": sparsity,
                    "columns_left": used,
                    "dense_over_skipping": ratio(took["dense"], took["skipping"]),
                    "dense": seconds(took["dense"]),
                }
            )
    return found


def bench_gather(own: dict[str, Any]) -> list[dict[str, Any]]:
    """Dense over gathering, for the tokens of a decoding step."""
    import torch
    import torch.nn.functional as F

    from scripts.bench_common import alternate, ratio, seconds, timed

    found = []
    for size, wide in DECODING:
        downs = [torch.randn(size, wide) for _ in range(own["layers"])]
        turned = [down.t().contiguous() for down in downs]
        repeats = max(1, 2**24 // (size * wide))
        for rows in (1, 16):
            for sparsity in SPARSITIES:
                r = activation(rows, wide, sparsity, "elements")

                def plain(r: "Tensor" = r, downs: list = downs) -> list:
                    return [F.linear(r * r, down) for down in downs]

                def gathered(r: "Tensor" = r, turned: list = turned) -> list:
                    return [gather(r, matrix) for matrix in turned]

                for a, b in zip(plain(), gathered(), strict=True):
                    torch.testing.assert_close(a, b, rtol=1e-4, atol=1e-4 * float(a.abs().max()))
                took = alternate(
                    {
                        name: lambda call=call, n=repeats: timed(lambda: [call() for _ in range(n)])
                        for name, call in (("dense", plain), ("gathered", gathered))
                    },
                    own["alternations"],
                )
                found.append(
                    {
                        "hidden": size,
                        "intermediate": wide,
                        "tokens": rows,
                        "sparsity": sparsity,
                        "dense_over_gathered": ratio(took["dense"], took["gathered"]),
                        "dense": seconds(took["dense"]),
                        "products": repeats * own["layers"],
                    }
                )
    return found


def gather(r: "Tensor", turned: "Tensor") -> "Tensor":
    """r^2 [M, F] @ turned [F, D], reading the rows that each token uses."""
    import torch.nn.functional as F

    rows, columns = r.nonzero(as_tuple=True)
    values = r[rows, columns]
    starts = rows.bincount(minlength=len(r)).cumsum(0).roll(1)
    starts[0] = 0
    return F.embedding_bag(
        columns, turned, starts, mode="sum", per_sample_weights=values * values
    )  # fmt: skip


def chances() -> dict[str, Any]:
    """Of tiles whose elements are zero independently."""
    return {
        f"{high}x{wide}": {
            "zero_tiles": {str(s): s ** (high * wide) for s in SPARSITIES},
            "sparsity_for_half": 0.5 ** (1 / (high * wide)),
        }
        for high, wide in TILES
    }


def zero_tiles(zeros: "Tensor", high: int, wide: int) -> float:
    """Share of the tiles [high, wide] of a [M, F] of booleans that are all true."""
    rows, columns = zeros.shape[0] // high * high, zeros.shape[1] // wide * wide
    cut = zeros[:rows, :columns].view(rows // high, high, columns // wide, wide)
    return float(cut.all(3).all(1).float().mean())


def of_layer(zeros: "Tensor") -> dict[str, Any]:
    """Where the zeros [M, F] of a layer lie."""
    use = (~zeros).float().mean(0)
    ordered, shape = zeros[:, use.argsort()], zeros.shape
    fitting = [(h, w) for h, w in TILES if h <= shape[0] and w <= shape[1]]
    share = float(zeros.float().mean())
    return {
        "sparsity": share,
        "dead_neurons": float((use == 0).float().mean()),
        "neurons_used_by_under_1_in_100": float((use < 0.01).float().mean()),
        "tiles": {
            f"{high}x{wide}": {
                "as_they_lie": zero_tiles(zeros, high, wide),
                "neurons_sorted_by_use": zero_tiles(ordered, high, wide),
                "if_independent": share ** (high * wide),
            }
            for high, wide in fitting
        },
    }


def look_at_model(own: dict[str, Any]) -> dict[str, Any]:
    """The zeros of every layer of a run's last model over one step's batch."""
    import torch

    from plm import checkpoint
    from plm.config import build
    from plm.data.loader import assemble
    from plm.model.context import Context
    from scripts.inspect_batch import read_run

    data = read_run(own["run"])
    planned = data.order.plan.at(own["step"])
    windows = data.order.windows(own["step"])
    batch = assemble(data.streams, windows, planned.phase.isolate_documents)
    model = build(data.settings["model"])
    newest = checkpoint.newest(
        data.folder / "checkpoints", lambda text: print(text, file=sys.stderr)
    )
    if newest is None:
        raise ConfigError(f"run={own['run']} has no whole checkpoint")
    model.load_state_dict(checkpoint.read_weights(newest))
    zeros: dict[str, Any] = {}
    for name, module in model.named_modules():
        if getattr(module, "sparse", False):
            module.register_forward_hook(
                lambda _, __, out, name=name: zeros.update({name: out.flatten(0, 1) == 0})
            )
    context = Context(positions=batch["positions"], doc_ids=batch["doc_ids"])
    with torch.no_grad():
        model.eval()(batch["tokens"], context=context)
    if not zeros:
        raise ConfigError(f"run={own['run']}: no layer of its model has an activation with zeros")
    return {
        "tokens": batch["tokens"].numel(),
        "layers": {name: of_layer(found) for name, found in zeros.items()},
    }


def _settings(arguments: list[str]) -> dict[str, Any]:
    own = read(arguments, {"part": "all", "run": "", **NUMBERS}, numbers=tuple(NUMBERS))
    for key in NUMBERS:
        least = {"step": 0, "alternations": 2}.get(key, 1)
        if own[key] < least:
            raise ConfigError(f"{key}={own[key]} must be at least {least}")
    everything = own["part"] == "all"
    parts = (
        [p for p in PARTS if p != "model" or own["run"]] if everything else own["part"].split(",")
    )
    for part in parts:
        if part not in PARTS:
            raise ConfigError(f"part={part} is not one of {', '.join(PARTS)} or all")
    if "model" in parts and not own["run"]:
        raise ConfigError("part=model needs a run, for example run=runs/plm_pretrain")
    return {**own, "part": tuple(parts)}


def run(own: dict[str, Any]) -> dict[str, Any]:
    """Measure the parts that were asked for."""
    # Before torch is imported.
    os.environ["OMP_NUM_THREADS"] = str(own["threads"])
    import torch

    from plm.memory import keep_freed_memory
    from scripts.bench_common import conditions

    torch.set_num_threads(own["threads"])
    torch.manual_seed(0)
    keep_freed_memory()
    calls: dict[str, Callable[[], Any]] = {
        "chance": chances,
        "products": lambda: bench_products(own),
        "gather": lambda: bench_gather(own),
        "model": lambda: look_at_model(own),
    }
    found = {name: calls[name]() for name in own["part"]}
    return {"settings": own, **found, "conditions": conditions()}


def main(arguments: list[str]) -> int:
    """Print the figures; the exit code."""
    if any(argument in ("-h", "--help") for argument in arguments):
        print(__doc__)
        return 0
    try:
        print(json.dumps(run(_settings(arguments)), indent=1))
    except PlmError as error:
        print(error, file=sys.stderr)
        return error.exit_code
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
