"""The second form of scripts/compare.py: stored evaluations of runs, item by item."""

import json
import sys
import time
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from plm.errors import ConfigError, DataError
from plm.evaluation import stored
from plm.evaluation.paired import Compared, compare
from plm.evaluation.table import aligned, number
from scripts.arguments import read

DEFAULTS: dict[str, Any] = {"runs": [], "tasks": [], "out": None}


def choose(arguments: list[str]) -> dict[str, Any]:
    """The settings.

    Raises:
        ConfigError: an unknown one, or fewer than two runs.
    """
    chosen = read(arguments, DEFAULTS, lists=("runs", "tasks"))
    if len(chosen["runs"]) < 2:
        raise ConfigError("runs=[a,b]: two run folders, or evaluation files, at least")
    if chosen["out"] is not None and not chosen["out"].endswith(".json"):
        raise ConfigError(f"out={chosen['out']} must be the name of a .json file")
    return chosen


def results_of(run: str) -> dict[str, dict[str, Any]]:
    """The newest result of each task of a run folder, or those of one evaluation file.

    Raises:
        ConfigError: there is nothing of this name.
        DataError: no evaluations, or a damaged one.
    """
    path = Path(run)
    if not path.exists():
        raise ConfigError(f"runs: {run} does not exist")
    return stored.newest(path)


def shared_tasks(results: dict[str, dict[str, Any]], asked: list[str]) -> list[str]:
    """Tasks that every run has.

    Raises:
        DataError: one that was asked for is missing, or they have none in common.
    """
    for task in asked:
        lacking = [run for run, found in results.items() if task not in found]
        if lacking:
            raise DataError(f"tasks: {lacking[0]} has no evaluation of {task}")
    first, *others = results.values()
    common = asked or [task for task in first if all(task in other for other in others)]
    if not common:
        told = "; ".join(f"{run}: {', '.join(found)}" for run, found in results.items())
        raise DataError(f"the runs have no task in common ({told})")
    return common


def lines(pair: tuple[str, str], compared: list[Compared]) -> list[str]:
    """The table of one pair."""
    head = (
        "task",
        "figure",
        "first",
        "second",
        "difference",
        "95 % interval",
        "p",
        "test",
        "items",
    )
    rows = []
    for one in compared:
        test = one.test
        if one.only_first is not None:
            test += f" {one.only_first}:{one.only_second}"
        known = one.low == one.low
        interval = f"{number(one.low)} to {number(one.high)}" if known else "–"
        moved = f"{one.difference:+.4f}" if one.difference == one.difference else "–"
        values = (number(one.first), number(one.second), moved, interval)
        rows.append((one.task, one.figure, *values, f"{one.p:.3g}", test, str(one.n)))
    return [f"first: {pair[0]}; second: {pair[1]}", *aligned([head, *rows])]


def notes(task: str, pair: list[dict[str, Any]]) -> list[str]:
    """A line for each condition that the two do not share: prompting, weights, dtype, precision."""
    first, second = (conditions(found) for found in pair)
    return [
        f"note: {task}: {said} {first[said]} and {second[said]}"
        for said in first
        if first[said] != second[said]
    ]


def conditions(found: dict[str, Any]) -> dict[str, str]:
    """What a stored result was made with, in words, by what is said of it."""
    about = found["evaluation"]
    precision = str(about.get("precision"))
    return {
        "prompted by": found["prompt"],
        # In training the weights are those of the moment, which nothing says.
        "weights are": str(about.get("weights", "last")),
        "computed in": str(about.get("conditions", {}).get("dtype", "an unknown dtype")),
        # Without autocast the dtype tells all.
        "precision is": precision if "mixed" in precision else "the dtype's own",
    }


def run(arguments: list[str]) -> list[str]:
    """Compare what the arguments name; what to print.

    Raises:
        ConfigError: results that cannot be paired.
    """
    chosen = choose(arguments)
    results = {name: results_of(name) for name in chosen["runs"]}
    if len(results) < 2:
        raise ConfigError("runs: the same one twice")
    tasks = shared_tasks(results, chosen["tasks"])
    base, *others = results
    said: list[str] = []
    told = []
    for other in others:
        compared = [
            row
            for task in tasks
            for row in compare(task, results[base][task], results[other][task])
        ]
        said += [*lines((base, other), compared)]
        for task in tasks:
            said += notes(task, [results[base][task], results[other][task]])
        said.append("")
        about = {
            name: {task: results[name][task]["evaluation"] for task in tasks}
            for name in (base, other)
        }
        told.append(
            {"first": base, "second": other, "evaluations": about,
             "figures": [row.plain() for row in compared]}
        )  # fmt: skip
    command = " ".join(["python scripts/compare.py", *arguments])
    text = json.dumps({"command": command, "time": time.time(), "pairs": told}, indent=1)
    path = place(chosen)
    from plm.checkpoint import write_atomic

    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        write_atomic(path, text)
    except OSError as error:
        raise ConfigError(f"out: {path} cannot be written: {error.strerror}") from error
    return [*said, f"written: {path}"]


def place(chosen: dict[str, Any]) -> Path:
    """Where the comparison goes: beside the last run's evaluations, unless it is said."""
    if chosen["out"] is not None:
        return Path(chosen["out"])
    names = [Path(name).resolve().stem for name in chosen["runs"]]
    last = Path(chosen["runs"][-1])
    folder = last.parent if last.is_file() else last / "comparisons"
    return folder / f"comparison-{'-'.join(names)}.json"
