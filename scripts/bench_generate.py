"""Generation against transformers' `generate` on the same exported model, as JSON.

    python scripts/bench_generate.py
    python scripts/bench_generate.py part=greedy model=llama alternations=11 threads=2
    python scripts/bench_generate.py part=floor scale=micro

part=<name>        greedy, group, floor, flips, or all (the default); several as greedy,group
alternations=<n>   rounds in which the compared things run in turn, 7 by default
threads=<n>        1 by default
rows=<n>           prompts of part=greedy, 32 by default; prompt=<n> tokens each, 32; new=<n>, 128
run=<folder>       a trained model in the place of first weights
compiled=true      steps by compiled kernels (plm/kernels/cpu), in all parts; false by default
products=torch     torch's own products for both; auto: what a run takes (plm/products.py)
All else goes to the configuration, as with train.py; the scale is nano if none is given.

greedy   tokens/s over transformers', the same tokens by both
group    four prompts of 512 tokens, eight samples of 64 tokens each, sampled
floor    the operators of a step alone (products, attention, norms, log-probabilities) over the step
flips    share of rows and tokens that change with the number of rows that grow together, in fp32

PLM's export brings its own modelling code for transformers, which
with model=llama uses its own.
"""

import json
import os
import sys
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

# The checkout need not be installed: its root is not where Python looks for a script's imports.
sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from plm.errors import ConfigError, PlmError

PARTS = ("greedy", "group", "floor", "flips")
GOALS = {
    "greedy": "4 or more at nano",
    "group": "6 or more at nano",
    "floor": "0.7 or more at micro",
}
GROUP = {"prompts": 4, "prompt": 512, "group": 8, "new": 64}
# Of a step at a place in the middle.
FLOOR_STEPS = 8


class Case:
    """A model, its twin in transformers, and prompts.

    Args:
        own: this script's settings.
        settings: the composed configuration, plain.
        folder: for the export.
    """

    def __init__(self, own: dict[str, Any], settings: dict[str, Any], folder: Path) -> None:
        from plm.config import build
        from plm.pretrained import load

        self.own, self.folder = own, folder
        if own["run"]:
            self.model = load(own["run"]).model
        else:
            self.model = build(settings["model"])
            self.model.init_weights(0)
        self.model.eval()

    def engine(self, rows: int) -> Any:
        """Ours."""
        from plm.rollout.engine import Engine

        return Engine(self.model, rows=rows, compiled=self.own["compiled"])

    def prompts(self, rows: int, length: int) -> Any:
        """Random tokens, [rows, length]."""
        import torch

        generator = torch.Generator().manual_seed(0)
        return torch.randint(0, self.model.vocab_size, (rows, length), generator=generator)

    def peer(self) -> Any:
        """The exported model, loaded as anybody would."""
        import transformers

        from plm.export.hf import hf
        from plm.formats.common import About

        path = self.folder / "hf"
        if not path.exists():
            hf(self.model, None, path, about=About())
        loaded = transformers.AutoModelForCausalLM.from_pretrained(path, trust_remote_code=True)
        loaded.generation_config.eos_token_id = None
        loaded.generation_config.pad_token_id = 0
        return loaded.float().eval()

    def compare(self, ours: Callable[[], Any], theirs: Callable[[], Any], tokens: int) -> dict:
        """Alternating times and their ratio, theirs over ours."""
        from scripts.bench_common import alternate, ratio, seconds, timed

        ours(), theirs()
        calls = {"ours": ours, "transformers": theirs}
        took = alternate(
            {name: lambda call=call: timed(call) for name, call in calls.items()},
            self.own["alternations"],
        )
        return {
            "tokens_per_s_ours_over_transformers": ratio(took["transformers"], took["ours"]),
            # Other load on the machine only ever adds.
            "fastest": {
                kind: min(getattr(t, kind) for t in took["transformers"])
                / min(getattr(t, kind) for t in took["ours"])
                for kind in ("cpu_s", "wall_s")
            },
            "tokens_per_s": {n: tokens / seconds(t)["wall_s"]["median"] for n, t in took.items()},
            "seconds": {name: seconds(t) for name, t in took.items()},
        }


def bench_greedy(case: Case) -> dict[str, Any]:
    """Prompts of one length, each continued greedily."""
    import torch

    from plm.rollout.sampling import Sampling

    rows, length, new = (case.own[key] for key in ("rows", "prompt", "new"))
    prompts, peer = case.prompts(rows, length), case.peer()
    engine, sampling = case.engine(rows), Sampling(new)

    def ours() -> list[list[int]]:
        return [one.tokens for one in engine.generate(prompts.tolist(), sampling)]

    def theirs() -> list[list[int]]:
        with torch.no_grad():
            mask = torch.ones_like(prompts)
            found = peer.generate(prompts, attention_mask=mask, max_new_tokens=new, do_sample=False)
        return found[:, length:].tolist()

    both = zip(ours(), theirs(), strict=True)
    same = [sum(map(int.__eq__, a, b)) for a, b in both]
    return {
        "peer": type(peer).__name__,
        "shapes": {"rows": rows, "prompt": length, "new": new},
        "same_tokens": sum(same) / (rows * new),
        **case.compare(ours, theirs, rows * new),
    }


def bench_group(case: Case) -> dict[str, Any]:
    """Several samples of each long prompt."""
    import torch

    from plm.rollout.sampling import Sampling

    shape = dict(GROUP)
    longest = case.model.max_position_embeddings
    shape["prompt"] = min(shape["prompt"], longest - shape["new"])
    prompts, peer = case.prompts(shape["prompts"], shape["prompt"]), case.peer()
    engine = case.engine(shape["prompts"] * shape["group"])
    sampling = Sampling(shape["new"], temperature=1.0)

    def ours() -> Any:
        return engine.generate(prompts.tolist(), sampling, group=shape["group"])

    def theirs() -> Any:
        with torch.no_grad():
            return peer.generate(
                prompts,
                attention_mask=torch.ones_like(prompts),
                max_new_tokens=shape["new"],
                do_sample=True,
                temperature=1.0,
                top_k=0,
                num_return_sequences=shape["group"],
            )

    tokens = shape["prompts"] * shape["group"] * shape["new"]
    return {"peer": type(peer).__name__, "shapes": shape, **case.compare(ours, theirs, tokens)}


def operators(call: Callable[[], Any]) -> list[Callable[[], Any]]:
    """The products, softmaxes and norms that a call makes, each to be made again."""
    import torch
    from torch.utils._python_dispatch import TorchDispatchMode

    wanted = {
        "mm", "addmm", "bmm", "baddbmm", "baddbmm_", "_linear_pointwise", "_softmax",
        "_log_softmax", "linalg_vector_norm", "addcmul", "rsqrt_", "mul", "mul_", "amax",
    }  # fmt: skip
    found: list[Callable[[], Any]] = []

    class Notes(TorchDispatchMode):
        def __torch_dispatch__(
            self, func: Any, types: Any, args: tuple = (), kwargs: dict | None = None
        ) -> Any:
            given = kwargs or {}
            if func.overloadpacket.__name__ in wanted:
                found.append(lambda: func(*args, **given))
            return func(*args, **given)

    with torch.no_grad(), Notes():
        call()
    return found


def bench_floor(case: Case) -> dict[str, Any]:
    """A step of all rows, and its operators alone."""
    from plm.rollout.sampling import Sampling
    from scripts.bench_common import alternate, ratio, seconds, timed

    rows, length, new = (case.own[key] for key in ("rows", "prompt", "new"))
    engine = case.engine(rows)
    rounds = case.own["alternations"]
    room = case.model.max_position_embeddings - length
    sampling = Sampling(min(room, new // 2 + FLOOR_STEPS * (rounds + 2)))
    for prompt in case.prompts(rows, length).tolist():
        engine.add(prompt, sampling)

    def steps(number: int) -> None:
        for _ in range(number):
            engine._advance(None)

    steps(new // 2)
    noted = operators(lambda: steps(1))

    def alone() -> None:
        for _ in range(FLOOR_STEPS):
            for call in noted:
                call()

    alone()
    calls = {"step": lambda: steps(FLOOR_STEPS), "operators": alone}
    took = alternate({n: lambda call=call: timed(call) for n, call in calls.items()}, rounds)
    return {
        "operators_over_step": ratio(took["operators"], took["step"]),
        "operators": len(noted),
        "positions": length + new // 2,
        "seconds": {name: seconds(t) for name, t in took.items()},
    }


def bench_flips(case: Case) -> dict[str, Any]:
    """Greedy and sampled rows, grown alone and together."""
    from plm.rollout.sampling import Sampling

    rows, length, new = (case.own[key] for key in ("rows", "prompt", "new"))
    prompts = case.prompts(rows, length).tolist()
    found = {}
    for name, temperature in (("greedy", 0.0), ("sampled", 1.0)):
        sampling = Sampling(new, temperature=temperature)
        alone, together = (
            [one.tokens for one in case.engine(n).generate(prompts, sampling)] for n in (1, rows)
        )
        both = list(zip(alone, together, strict=True))
        parted = [next((i for i in range(new) if a[i] != b[i]), new) for a, b in both]
        compared = sum(min(at + 1, new) for at in parted)
        found[name] = {
            "rows_that_part": sum(at < new for at in parted) / rows,
            "flips_per_token": sum(at < new for at in parted) / compared,
            "tokens_compared": compared,
        }
    return found


def read_arguments(arguments: list[str]) -> tuple[dict[str, Any], list[str]]:
    """This script's settings, and the rest for the configuration."""
    own: dict[str, Any] = {
        "part": "all", "alternations": 7, "threads": 1, "rows": 32, "prompt": 32, "new": 128,
        "products": "torch", "run": "", "compiled": False,
    }  # fmt: skip
    rest = []
    for argument in arguments:
        key, sign, value = argument.partition("=")
        if not sign or key not in own:
            rest.append(argument)
        elif key in ("part", "products", "run"):
            own[key] = value
        elif key == "compiled":
            if value not in ("true", "false"):
                raise ConfigError(f"compiled={value} is not true or false")
            own[key] = value == "true"
        elif not value.isdigit() or int(value) < 1:
            raise ConfigError(f"{key}={value} is not a whole number of at least 1")
        else:
            own[key] = int(value)
    if own["alternations"] < 2:
        raise ConfigError("alternations=1 has no spread; at least 2, better 7")
    if own["products"] not in ("torch", "auto"):
        raise ConfigError(f"products={own['products']} is not torch or auto")
    own["part"] = PARTS if own["part"] == "all" else tuple(own["part"].split(","))
    for name in own["part"]:
        if name not in PARTS:
            raise ConfigError(f"part={name} is not one of {', '.join(PARTS)} or all")
    return own, rest


def run(own: dict[str, Any], rest: list[str], folder: Path) -> dict[str, Any]:
    """Measure the parts that were asked for."""
    # Before torch is imported.
    os.environ["OMP_NUM_THREADS"] = str(own["threads"])
    import torch

    from plm import products
    from plm.memory import keep_freed_memory
    from scripts.bench_common import conditions
    from scripts.plan import compose

    torch.set_num_threads(own["threads"])
    # As in a run; the peer in this process gets the same.
    keep_freed_memory()
    if own["products"] == "auto":
        products.choose("auto")
    try:
        overrides = ["+experiment=plm_pretrain", "scale=nano", f"data.dir={folder / 'data'}"]
        settings = compose([*overrides, *rest, f"threads={own['threads']}"])
        case = Case(own, settings, folder)
        calls = {
            "greedy": bench_greedy, "group": bench_group, "floor": bench_floor,
            "flips": bench_flips,
        }  # fmt: skip
        found: dict[str, Any] = {"goals": GOALS, "parameters": case.model.parameters_of()}
        for name in own["part"]:
            found[name] = calls[name](case)
        here = {**conditions(), "products": products.in_use()}
        return {
            **found,
            "overrides": rest,
            "run": own["run"] or None,
            "compiled": own["compiled"],
            "conditions": here,
        }
    finally:
        products.use_torch()


def main(arguments: list[str]) -> int:
    """Print the figures; the exit code."""
    if any(argument in ("-h", "--help") for argument in arguments):
        print(__doc__)
        return 0
    try:
        own, rest = read_arguments(arguments)
        with tempfile.TemporaryDirectory(prefix="bench-") as folder:
            print(json.dumps(run(own, rest, Path(folder)), indent=1))
    except PlmError as error:
        print(error, file=sys.stderr)
        return error.exit_code
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
