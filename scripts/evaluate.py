"""Evaluate a trained model on tasks, with the spread of every figure.

    python scripts/evaluate.py run=runs/plm_sft tasks=[exercises,held_out]
    python scripts/evaluate.py run=runs/plm_sft tasks=[humaneval] humaneval.path=HumanEval.jsonl.gz
        samples=20 k=[1,10] temperature=0.8
    python scripts/evaluate.py run=runs/plm_aries tasks=[gsm8k] refine=2 temperature=0.7
    python scripts/evaluate.py run=export/hf tasks=[plm_table] limit=100 out=plm_table.json

Settings, as key=value:
    run          run folder (its newest checkpoint), a checkpoint, or a Hugging Face folder
    tasks        names of configs/task, [a,b], or YAML files of your own like those
    n            generated items a family, for tasks that generate them
    limit        at most so many items, for a quick look: of the task as a whole where it generates
                 or reads items; of each source for held_out; of each (sub)task for lm-eval's
    samples      answers an item; more than one needs a temperature
    k            pass@k for each of these, [1,8]; at most samples
    temperature  of the draws; 0 takes the most likely token
    max_new_tokens  longest answer
    seed         of the draws
    refine       so many refinements of each answer, for tasks that generate answers, by a model
                 that converses: each turn is graded, beside as many independent answers (0)
    environment  of configs/environment, for tasks that generate answers: interpreter runs what
                 they call, and its output goes into the answer; environment.max_turns=2 and such
    template     how a refined answer is shown: a text with {question} and {answer}, a file of it,
                 or a name of configs/refinement (what the checkpoint was trained with, else plm)
    <task>.<key> any setting of one task's file: gsm8k.path=test.jsonl
    prompt       auto, chat or text: by the chat template, or as text to go on from (auto)
    weights      last, or average: those that callbacks.average kept (last)
    device       auto, cpu or cuda (auto)
    dtype        float32, bfloat16 or float16; auto: float32 on a CPU, bfloat16 on a GPU (auto)
    rows         sequences that go through the model at a time (32)
    compiled     true: decode by kernels that a C++ compiler builds here on first use, in fp32 on a
                 CPU; auto: if there is one; false (false)
    name         of the result (the time)
    out          the JSON file (<run>/evaluations/<name>.json)
    trust        [mylab]: packages of your own that the model's parts or the tasks come from

    A setting inside another one keeps its neighbours: exercises.families.gcd.max_value=9
    changes one family, exercises.families={gcd: {}} takes the place of all.

Prints a table; the JSON also holds every item's outcome, seeds, versions and a hash of the items.
It is written after each task, so that an error or Ctrl-C in a later one loses nothing of those.
In a run folder the report is written again, with the new figures. Compare two runs item by item
with scripts/compare.py runs=[a,b]. Exit code 0; 2: a mistake in the command or its files.
"""

import sys
import time
from pathlib import Path
from typing import Any

# The checkout need not be installed: its root is not where Python looks for a script's imports.
sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from plm.errors import ConfigError, Interrupted, PlmError
from scripts.arguments import read
from scripts.loading import computing, loaded

SHARED = ("n", "limit", "samples", "k", "temperature", "max_new_tokens", "seed")
"""Settings that go to every task which has them."""
DEFAULTS: dict[str, Any] = {
    "run": None,
    "tasks": [],
    **dict.fromkeys(SHARED),
    "refine": 0,
    "template": None,
    "environment": None,
    "prompt": "auto",
    "weights": "last",
    "device": "auto",
    "dtype": "auto",
    "rows": 32,
    "compiled": "false",
    "name": None,
    "out": None,
    "trust": [],
}


def split(arguments: list[str]) -> tuple[dict[str, Any], dict[str, dict[str, Any]]]:
    """The settings, and those of single tasks by the task's name and their own, such as `a.b`.

    Raises:
        ConfigError: an unknown key, or a value of the wrong kind.
    """
    own: dict[str, dict[str, Any]] = {}
    rest = []
    for argument in arguments:
        key, sign, value = argument.partition("=")
        task, dot, setting = key.partition(".")
        if sign and dot and setting:
            own.setdefault(task, {})[setting] = _value(key, value)
        else:
            rest.append(argument)
    chosen = read(rest, DEFAULTS, numbers=("rows", "refine"), lists=("tasks", "trust"))
    for key in SHARED:
        if chosen[key] is not None:
            chosen[key] = _value(key, chosen[key])
    return chosen, own


def _value(key: str, text: str) -> Any:
    import yaml

    try:
        return yaml.safe_load(text)
    except yaml.YAMLError as error:
        raise ConfigError(f"{key}={text}: {' '.join(str(error).split())}") from error


def place(chosen: dict[str, Any], found: Any, name: str) -> Path:
    """Where the result goes.

    Raises:
        ConfigError: there is no place for it, or something is there already.
    """
    if chosen["out"] is None and found.run is None:
        raise ConfigError(f"out=<file.json> is missing: {chosen['run']} lies in no run's folder")
    if Path(name).name != name or name.startswith("."):
        raise ConfigError(f"name={name} cannot be a file's name")
    path = Path(chosen["out"]) if chosen["out"] else found.run / "evaluations" / f"{name}.json"
    if path.is_dir() or path.suffix != ".json":
        raise ConfigError(f"out={path} must be the name of a .json file")
    if path.exists():
        raise ConfigError(f"{path} exists already; remove it, or give another name=… or out=…")
    return path


def tasks_of(chosen: dict[str, Any], own: dict[str, dict[str, Any]]) -> dict[str, Any]:
    """The tasks with the settings that the command line gives them, refined where it says so."""
    from plm.evaluation import choices

    turns, template, name = chosen["refine"], chosen["template"], chosen["environment"]
    settings = own.pop("environment", {})
    if settings and name is None:
        raise ConfigError(f"environment.{next(iter(settings))}: set environment=interpreter too")
    if turns and name is not None:
        raise ConfigError(f"refine={turns}: answers that have turns already are not refined")
    if turns < 0:
        raise ConfigError(f"refine={turns} is negative; 0 refines nothing")
    # Without refine= it is for tasks that refine by themselves.
    keys = SHARED if turns else (*SHARED, "template")
    shared = {key: chosen[key] for key in keys if chosen[key] is not None}
    nodes = choices.nodes(chosen["tasks"], shared=shared, own=own)
    tasks = choices.built(nodes)
    if name is not None:
        from plm.evaluation.environments import within

        within(tasks, name, settings)
    if not turns:
        return tasks
    from plm.evaluation.refined import refining

    return refining(tasks, turns, template)


def kept(subject: Any, tasks: dict[str, Any], path: Path, about: dict[str, Any]) -> dict[str, Any]:
    """The tasks' results, which are on the disk as soon as there is one more.

    Args:
        subject, tasks: what is evaluated, and on what.
        path, about: as for `plm.evaluation.stored.write`; `time` and, until the last task has
            ended, `unfinished` with the names of the others are added.
    """
    from plm.evaluation import stored
    from plm.evaluation.runner import evaluate

    done: dict[str, Any] = {}

    def keep(task: str, result: Any, seconds: float) -> None:
        some = {**done, task: result}
        left = [name for name in tasks if name not in some]
        told = {**about, "time": time.time()} | ({"unfinished": left} if left else {})
        stored.write(path, told, some)
        done[task] = result
        print(f"{task}: {seconds:.1f} s", file=sys.stderr)

    try:
        return evaluate(subject, tasks, tell=keep)
    except BaseException:
        # Whatever ended it, Ctrl-C and mistakes of ours too.
        if done:
            left = ",".join(name for name in tasks if name not in done)
            rest = (
                f"; for the rest: tasks=[{left}], and no name or out that is there" if left else ""
            )
            print(f"ended early; {path} holds {', '.join(done)}{rest}", file=sys.stderr)
        raise


def run(chosen: dict[str, Any], own: dict[str, dict[str, Any]], command: str) -> list[str]:
    """Evaluate as chosen; what to print."""
    from plm.config import trust

    trust(chosen["trust"])
    tasks = tasks_of(chosen, own)
    found = loaded(chosen)
    name = chosen["name"] or time.strftime("%Y-%m-%dT%H-%M-%S")
    path = place(chosen, found, name)
    device, dtype = computing(chosen)

    from plm.evaluation import choices, stored, table
    from plm.evaluation.subject import subject_of

    subject = subject_of(
        found,
        prompt=chosen["prompt"],
        rows=chosen["rows"],
        device=device,
        dtype=dtype,
        compiled=chosen["compiled"],
    )
    # All of them before the first: a missing file is not to be found out an hour later.
    choices.check(subject, tasks)
    about = {
        "name": name,
        "run": (found.run or found.path).resolve().name,
        "path": str(found.path),
        "weights": chosen["weights"],
        "tokens_seen": found.meta.get("tokens_seen"),
        "step": found.meta.get("step"),
        "command": command,
        "conditions": stored.conditions(subject),
    }
    results = kept(subject, tasks, path, about)
    lines = [*table.lines(results), "", f"prompted by {subject.style}; written: {path}"]
    if found.run is not None and (found.run / "report.html").is_file():
        from plm.report.page import write_report

        lines.append(f"report: {write_report(found.run)}")
    return lines


def main(arguments: list[str]) -> int:
    """Exit code: 0, or 2 for what the user can put right."""
    if any(argument in ("-h", "--help") for argument in arguments):
        from plm.evaluation.choices import known

        print(f"{__doc__}\nTasks: {', '.join(known())}")
        return 0
    try:
        command = " ".join(["python scripts/evaluate.py", *arguments])
        print("\n".join(run(*split(arguments), command)))
    except KeyboardInterrupt:
        print("interrupted", file=sys.stderr)
        return Interrupted.exit_code
    except PlmError as error:
        print(f"error: {error}", file=sys.stderr)
        return error.exit_code
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
