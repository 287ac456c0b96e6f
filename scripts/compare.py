"""Compare methods, each at its own best peak rate, over paired seeds; or runs, item by item.

    python scripts/compare.py study=schedules arm.wsdc= arm.cosine=schedule=cosine
    python scripts/compare.py study=blocks arm.plm= arm.llama=model=llama jobs=2
    python scripts/compare.py runs=[runs/a,runs/b]

study=<name>       the runs lie in <runs_dir>/<name>/, with result.json beside them
arm.<name>=<settings>
                   one arm: overrides of train.py, separated by spaces; the first is what the
                   others are compared with
rates=2e-3,4e-3,8e-3,1.6e-2
                   peak rates to try with each arm, ascending, each a constant factor above the one
                   before; where the best is the first or the last, up to two further are tried
seeds=0,1,2        two to ten, for the comparison at the best rate
tune_seed=100      the seed on which rates are tried; not one of `seeds`, so that choosing the best
                   does not flatter an arm
stage=pretrain     the stage whose peak rate is set
jobs=1             runs at the same time, one thread each

All else goes to every run, as with train.py; +experiment=plm_pretrain unless another is named.
A finished run is not repeated: the same command goes on where it was stopped.

Compared is the held-out loss (nats a token), for each source and as their plain mean, which is also
what chooses the rate. The difference of an arm to the first is taken seed by seed; its interval is
Student's, 95 %. Exit code 0; 1: a run failed; 2: a mistake in the command.

The second form trains nothing. It takes the newest stored evaluation of each task that the runs
share (scripts/evaluate.py, or callbacks.evaluation, made them) and compares the others to the first
on the same items: McNemar's exact test for right and wrong, the paired bootstrap for shares, paired
differences for losses. Other items, seeds or settings are refused.

runs=[a,b]         run folders, or evaluation files
tasks=[a,b]        of the shared tasks only these
out=<file.json>    where the comparison is kept (<last run>/comparisons/comparison-<a>-<b>.json)
"""

import json
import os
import subprocess
import sys
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from functools import cache
from pathlib import Path
from statistics import fmean, stdev
from typing import Any

# The checkout need not be installed: its root is not where Python looks for a script's imports.
sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from plm.errors import ConfigError, GuardStop, PlmError

ROOT = Path(__file__).resolve().parents[1]
# Two-sided 95 % points of Student's t, for 1 to 9 degrees of freedom.
T95 = (12.706, 4.303, 3.182, 2.776, 2.571, 2.447, 2.365, 2.306, 2.262)
FURTHER_RATES = 2
MEAN = "mean"
# What a comparison does not need: samples, validation on the way, checkpoints on the way.
LEAN = (
    "samples.number=0",
    "checkpoint.every_tokens=0",
    "validation.every_tokens=1_000_000_000_000",
    "threads=1",
)
DEFAULTS = {
    "rates": "2e-3,4e-3,8e-3,1.6e-2",
    "seeds": "0,1,2",
    "tune_seed": "100",
    "stage": "pretrain",
    "jobs": "1",
    "runs_dir": "runs",
}

# An arm, a peak rate, a seed -> the held-out losses by source, and as MEAN.
Losses = dict[str, float]
Trial = tuple[str, float, int]
RunAll = Callable[[list[Trial]], dict[Trial, Losses]]


class RunFailed(PlmError):
    """A run ended with an error."""

    exit_code = 1


def read_arguments(
    arguments: list[str],
) -> tuple[dict[str, str], dict[str, list[str]], list[str]]:
    """Settings of the comparison, arms, and what goes to every run.

    Raises:
        ConfigError: a name is missing, or a list is too short.
    """
    settings, arms, rest = dict(DEFAULTS), {}, []
    for argument in arguments:
        key, sign, value = argument.partition("=")
        if sign and key.startswith("arm."):
            arms[key.removeprefix("arm.")] = value.split()
        elif sign and (key == "study" or key in DEFAULTS):
            settings[key] = value
        else:
            rest.append(argument)
    if not settings.get("study"):
        raise ConfigError("study=<name> is missing, for example study=schedules")
    if len(arms) < 2:
        raise ConfigError("two arms at least: arm.wsdc= arm.cosine=schedule=cosine")
    if not any(argument.startswith("+experiment=") for argument in rest):
        rest.insert(0, "+experiment=plm_pretrain")
    return settings, arms, rest


def numbers(settings: dict[str, str], key: str, kind: type[Any]) -> list[Any]:
    """A setting that is a list of numbers.

    Raises:
        ConfigError: it is not.
    """
    try:
        return [kind(part) for part in settings[key].split(",")]
    except ValueError as error:
        raise ConfigError(f"{key}={settings[key]}: {error}") from error


def best_rate(arm: str, rates: list[float], seed: int, run_all: RunAll) -> tuple[float, Losses]:
    """The rate with the least mean loss, and the losses of all that were tried.

    A best rate at an end of the list asks for the next one beyond it, `FURTHER_RATES` times.
    """
    tried = list(rates)
    found: Losses = {}
    for _ in range(FURTHER_RATES + 1):
        new = [(arm, rate, seed) for rate in tried if f"{rate:g}" not in found]
        for (_, rate, _), losses in run_all(new).items():
            found[f"{rate:g}"] = losses[MEAN]
        best = min(tried, key=lambda rate: found[f"{rate:g}"])
        if best == tried[0]:
            tried.insert(0, tried[0] ** 2 / tried[1])
        elif best == tried[-1]:
            tried.append(tried[-1] ** 2 / tried[-2])
        else:
            break
    return best, found


def interval(differences: list[float]) -> dict[str, float]:
    """Mean of paired differences, and half the width of its 95 % interval."""
    half = T95[len(differences) - 2] * stdev(differences) / len(differences) ** 0.5
    return {"difference": fmean(differences), "half_width": half}


def compare(arms: list[str], rates: list[float], seeds: list[int], tune_seed: int, run_all: RunAll):
    """Tune each arm, run it over the seeds, and take the differences to the first.

    Args:
        arms: names, the first is what the others are compared with.
        rates: peak rates, ascending.
        run_all: trains trials; their held-out losses.
    Returns:
        By arm: best rate, losses by rate, by source mean, deviation and difference.
    Raises:
        ConfigError: seeds, or rates, that cannot be compared.
    """
    if not 2 <= len(seeds) <= len(T95) + 1 or tune_seed in seeds or len(set(seeds)) < len(seeds):
        raise ConfigError(
            f"seeds={','.join(map(str, seeds))}: two to {len(T95) + 1}, all different, none of "
            f"them tune_seed={tune_seed}"
        )
    if len(rates) < 2 or rates != sorted(set(rates)):
        raise ConfigError("rates: at least two, ascending")
    # The whole list first, so that every job has work; ends of the list are settled after it.
    run_all([(arm, rate, tune_seed) for rate in rates for arm in arms])
    tuned = {arm: best_rate(arm, rates, tune_seed, run_all) for arm in arms}
    trials = {arm: [(arm, tuned[arm][0], seed) for seed in seeds] for arm in arms}
    losses = run_all([trial for several in trials.values() for trial in several])
    result = {}
    for arm in arms:
        best, tried = tuned[arm]
        mine = [losses[trial] for trial in trials[arm]]
        if any(one[MEAN] == float("inf") for one in mine):
            raise RunFailed(f"{arm} at rate {best:g}: a guard stopped a run; give other rates=")
        first = [losses[trial] for trial in trials[arms[0]]]
        ends = {max(tried, key=float), min(tried, key=float)}
        result[arm] = {
            "rate": best,
            "at_the_end_of_the_list": f"{best:g}" in ends,
            "tuning": tried,
            "sources": {
                source: {
                    "losses": [one[source] for one in mine],
                    "mean": fmean(one[source] for one in mine),
                    "deviation": stdev(one[source] for one in mine),
                    **interval([a[source] - b[source] for a, b in zip(mine, first, strict=True)]),
                }
                for source in mine[0]
            },
        }
    return result


def train(folder: Path, name: str, overrides: list[str]) -> Losses:
    """One run of train.py, or what it left when it has been made before; its held-out losses.

    A guard's stop (a loss that is not finite, say) counts as an infinite mean: too high a rate.

    Raises:
        RunFailed: it failed; its last line.
    """
    env = {k: v for k, v in os.environ.items() if k not in ("RANK", "WORLD_SIZE", "LOCAL_RANK")}
    folder.mkdir(parents=True, exist_ok=True)
    said = folder / f"{name}.log"
    with said.open("w", encoding="utf-8") as log:
        code = subprocess.run(
            [sys.executable, "train.py", *overrides, f"name={name}", f"runs_dir={folder}"],
            cwd=ROOT,
            env=env | {"OMP_NUM_THREADS": "1"},
            stdout=log,
            stderr=subprocess.STDOUT,
            check=False,
        ).returncode
    if code == GuardStop.exit_code:
        return {MEAN: float("inf")}
    if code:
        lines = said.read_text(encoding="utf-8").strip().splitlines() or ["nothing said"]
        raise RunFailed(f"{name}: train.py ended with exit code {code}: {lines[-1]} (see {said})")
    status = json.loads((folder / name / "status.json").read_text(encoding="utf-8"))
    losses = {source: figures["loss"] for source, figures in status["val"].items()}
    return losses | {MEAN: fmean(losses.values())}


def table(result: dict[str, Any]) -> list[str]:
    """The comparison as a Markdown table, a row an arm."""
    first, *_ = result
    sources = list(result[first]["sources"])
    lines = [
        "| arm | peak rate | " + " | ".join(f"{s} | against {first}" for s in sources) + " |",
        "|---|---|" + "---|---|" * len(sources),
    ]
    for arm, row in result.items():
        cells = [arm, f"{row['rate']:g}"]
        for figures in row["sources"].values():
            cells.append(f"{figures['mean']:.3f} ± {figures['deviation']:.3f}")
            moved = f"{figures['difference']:+.3f} ± {figures['half_width']:.3f}"
            cells.append("" if arm == first else moved)
        lines.append("| " + " | ".join(cells) + " |")
    return lines


def main(arguments: list[str]) -> int:
    """Compare what the arguments name; the exit code."""
    if any(argument in ("-h", "--help") for argument in arguments):
        print(__doc__)
        return 0
    try:
        if any(argument.startswith("runs=") for argument in arguments):
            from scripts import compare_runs

            print("\n".join(compare_runs.run(arguments)))
            return 0
        settings, arms, rest = read_arguments(arguments)
        rates, seeds = numbers(settings, "rates", float), numbers(settings, "seeds", int)
        (tune_seed,), (jobs,) = numbers(settings, "tune_seed", int), numbers(settings, "jobs", int)
        folder = (Path(settings["runs_dir"]) / settings["study"]).absolute()
        rate_key = f"scale.peak_lr.{settings['stage']}"

        @cache
        def one(trial: Trial) -> Losses:
            arm, rate, seed = trial
            own = [*LEAN, *rest, *arms[arm], f"{rate_key}={rate!r}", f"seed={seed}"]
            losses = train(folder, f"{arm}-{rate:g}-seed{seed}", own)
            print(f"{arm}  rate {rate:g}  seed {seed}  {losses[MEAN]:.4f}", file=sys.stderr)
            return losses

        def run_all(trials: list[Trial]) -> dict[Trial, Losses]:
            with ThreadPoolExecutor(max(1, jobs)) as pool:
                return dict(zip(trials, pool.map(one, trials), strict=True))

        result = compare(list(arms), rates, seeds, tune_seed, run_all)
    except PlmError as error:
        print(error, file=sys.stderr)
        return error.exit_code
    told = {"command": " ".join(["python scripts/compare.py", *arguments]), "arms": result}
    (folder / "result.json").write_text(json.dumps(told, indent=1), encoding="utf-8")
    print("\n".join(table(result)))
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
