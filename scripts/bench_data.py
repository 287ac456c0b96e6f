"""Benchmarks of the data path against its peers, as JSON with ratios, spread and conditions.

    python scripts/bench_data.py
    python scripts/bench_data.py part=load alternations=11 batches=200

part=<name>          tokenise, load, seek, memory, or all (the default); several as load,seek
alternations=<n>     rounds in which the compared things run in turn, 7 by default
workers=<n>          processes of a preparation, and of the second comparison of tokenise, 2
vocab_size=<n>       of the tokenizer that tokenise and memory train, 8192
text_megabytes=<n>   of installed text for tokenise, 20
million_tokens=<n>   of random tokens for load, 64
batches=<n>          of 2^16 tokens that load reads a round, 100
megabytes=<n>        of text for memory, 1000; takes three times as much disk, under TMPDIR

tokenise  megabytes a CPU second of our encoding over datasets.map and datatrove, ids compared
load      tokens a CPU second of our batches over litdata's token loader and torch's DataLoader
seek      cost of any step of a run of 2.48 trillion tokens, and what its order promises
memory    peak of a preparation's process tree, sampled; one run, which has no spread

tokenise needs the package datatrove and load needs litdata, which are not installed with the
project: `make test-peers` sets up .venv-peers, whose Python has them. Where one is missing, a part
that was asked for by name ends with exit code 2, and `all` says that it was not run. CPU seconds
are those of the process tree.
"""

import json
import os
import sys
import tempfile
from collections.abc import Callable
from importlib.metadata import PackageNotFoundError, version
from importlib.util import find_spec
from pathlib import Path
from typing import Any

# The checkout need not be installed: its root is not where Python looks for a script's imports.
sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from plm.errors import ConfigError, PlmError

DEFAULTS: dict[str, Any] = {
    "part": "all",
    "alternations": 7,
    "workers": 2,
    "vocab_size": 8192,
    "text_megabytes": 20,
    "million_tokens": 64,
    "batches": 100,
    "megabytes": 1000,
}
NEEDS = {"tokenise": "datatrove", "load": "litdata", "seek": None, "memory": None}
GOALS = {
    "load": "at least 2 times the best peer, and 50 million tokens a CPU second",
    "seek": "the same time and memory everywhere; counts within 2 windows of the asked share",
    "memory": "under 1 GB",
}
VERSIONS = ("tokenizers", "datasets", "datatrove", "litdata", "regex")


def _settings(arguments: list[str]) -> dict[str, Any]:
    own = dict(DEFAULTS)
    for argument in arguments:
        key, sign, value = argument.partition("=")
        if not sign or key not in own:
            raise ConfigError(f"unknown setting {argument!r}; known: {', '.join(own)}")
        if key == "part":
            own[key] = value
        elif not value.replace("_", "").isdigit() or int(value) < 1:
            raise ConfigError(f"{key}={value} is not a whole number of at least 1")
        else:
            own[key] = int(value)
    if own["alternations"] < 2:
        raise ConfigError("alternations=1 has no spread; at least 2, better 7")
    own["all"] = own["part"] == "all"
    own["parts"] = tuple(NEEDS) if own["all"] else tuple(own["part"].split(","))
    for name in own["parts"]:
        if name not in NEEDS:
            raise ConfigError(f"part={name} is not one of {', '.join(NEEDS)} or all")
        package = NEEDS[name]
        if package and find_spec(package) is None and not own["all"]:
            raise ConfigError(
                f"part={name} needs the package {package}: pip install {package}, or run this "
                "with .venv-peers/bin/python, which `make test-peers` sets up"
            )
    return own


def _call(name: str) -> Callable[[dict[str, Any], Path], dict[str, Any]]:
    if name == "tokenise":
        from scripts.bench_data_tokenise import bench_tokenise as found
    elif name == "load":
        from scripts.bench_data_load import bench_load as found
    elif name == "seek":
        from scripts.bench_data_seek import bench_seek as found
    else:
        from scripts.bench_data_memory import bench_memory as found
    return found


def _version(package: str) -> str | None:
    try:
        return version(package)
    except PackageNotFoundError:
        return None


def run(own: dict[str, Any]) -> dict[str, Any]:
    """Measure the parts that were asked for."""
    # Before torch is imported, and for the processes that are started.
    os.environ["OMP_NUM_THREADS"] = "1"
    import torch

    from scripts.bench_common import conditions

    torch.set_num_threads(1)
    found: dict[str, Any] = {"goals": GOALS}
    for name in own["parts"]:
        package = NEEDS[name]
        if package and find_spec(package) is None:
            found[name] = f"not run: {package} is not installed"
            continue
        with tempfile.TemporaryDirectory(prefix="bench-", ignore_cleanup_errors=True) as folder:
            place = Path(folder) / name
            place.mkdir()
            found[name] = _call(name)(own, place)
    about = conditions()
    about["versions"] |= {name: _version(name) for name in VERSIONS}
    return {**found, "conditions": about}


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
