"""Tasks by name: the YAML files of configs/task, with settings over them."""

from collections.abc import Callable, Mapping
from inspect import signature
from pathlib import Path
from typing import Any

import yaml

from plm.config import build, check_targets, locate
from plm.errors import ConfigError, PlmError
from plm.evaluation.kinds import unknown

CONFIGS = Path(__file__).resolve().parents[2] / "configs" / "task"


def nodes(
    names: list[str],
    *,
    shared: dict[str, Any] | None = None,
    own: dict[str, dict[str, Any]] | None = None,
) -> dict[str, dict[str, Any]]:
    """The nodes of tasks, by name.

    Args:
        names: files of configs/task, without .yaml, or paths of YAML files; a file with `tasks:
            [a, b]` stands for those.
        shared: settings for every task that has them in its file, be it in a task that it wraps as
            `task`.
        own: settings for one task, by its name; `a.b` sets b in the mapping a, and leaves the
            others that are there.
    Raises:
        ConfigError: no such task, a file that is none, a setting that no task has.
    """
    found: dict[str, dict[str, Any]] = {}
    for name in names:
        found |= _read(name)
    if not found:
        raise ConfigError(f"tasks=[…] is empty; there are {', '.join(known())}")
    for key, value in (shared or {}).items():
        having = [at for at in (_holder(node, key) for node in found.values()) if key in at]
        if not having:
            raise ConfigError(f"{key}={value}: none of {', '.join(found)} has the setting {key}")
        for node in having:
            node[key] = value
    for name, settings in (own or {}).items():
        if name not in found:
            raise ConfigError(f"{name}.…: no task of this name; there are {', '.join(found)}")
        for path, value in settings.items():
            _set(found[name], name, path, value)
    return found


def _holder(node: dict[str, Any], key: str) -> dict[str, Any]:
    """The node, or that of the task which it wraps, where that one has the setting."""
    inner = node.get("task")
    return inner if key not in node and isinstance(inner, dict) and key in inner else node


def _set(node: dict[str, Any], task: str, path: str, value: Any) -> None:
    *parents, last = path.split(".")
    at = _holder(node, path.split(".")[0])
    for depth, parent in enumerate(parents):
        if at.get(parent) is None:
            at[parent] = {}
        if not isinstance(at[parent], dict):
            there = ".".join([task, *parents[: depth + 1]])
            raise ConfigError(f"{task}.{path}={value}: {there}={at[parent]} holds no settings")
        at = at[parent]
    at[last] = value


def known() -> list[str]:
    """Names of the tasks that there are."""
    return sorted(path.stem for path in CONFIGS.glob("*.yaml"))


def _read(name: str) -> dict[str, dict[str, Any]]:
    from difflib import get_close_matches

    file = Path(name) if name.endswith(".yaml") else CONFIGS / f"{name}.yaml"
    if not file.is_file():
        near = get_close_matches(name, known(), n=3)
        hint = f"did you mean {', '.join(near)}?" if near else f"there are {', '.join(known())}"
        raise ConfigError(f"tasks: no task {name!r}; {hint}")
    try:
        node = yaml.safe_load(file.read_text(encoding="utf-8"))
    except yaml.YAMLError as error:
        raise ConfigError(f"tasks: {file} is not YAML: {' '.join(str(error).split())}") from error
    if isinstance(node, dict) and isinstance(node.get("tasks"), list):
        several: dict[str, dict[str, Any]] = {}
        for one in node["tasks"]:
            several |= _read(str(one))
        return several
    if not isinstance(node, dict) or "_target_" not in node:
        raise ConfigError(f"tasks: {file} has neither a _target_ nor a list `tasks`")
    return {file.stem: node}


def built(found: Mapping[str, dict[str, Any]], where: str = "") -> dict[str, Any]:
    """The tasks that nodes describe.

    Args:
        found: nodes by name.
        where: path of the names, with a dot at its end, for the errors.
    Raises:
        ConfigError: a target that is not allowed, or settings that it does not take.
    """
    tasks = {}
    for name, node in found.items():
        check_targets(node, f"{where}{name}")
        try:
            _check_names(node)
            tasks[name] = build(node)
        except ConfigError as error:
            raise ConfigError(f"{where}{name}: {error}") from error
    return tasks


def _check_names(node: dict[str, Any]) -> None:
    """Refuse settings that the target does not take; one that takes any says so itself."""
    taken = signature(locate(node["_target_"])).parameters.values()
    known = [one.name for one in taken]
    for name, value in node.items():
        if name not in (*known, "_target_", "_partial_") and not any(
            one.kind is one.VAR_KEYWORD for one in taken
        ):
            raise unknown(name, value, known)


def check(subject: Any, tasks: Mapping[str, Any], where: str = "") -> None:
    """What each task says that would stop it, with its name.

    Args:
        subject: the model.
        tasks: by name.
        where: as for `built`.
    Raises:
        PlmError: of the task's own class.
    """
    for name, task in tasks.items():
        _named(where, name, task.check, subject)


def check_callbacks(callbacks: Mapping[str, Any], context: int, *, items: bool = True) -> None:
    """Refuse evaluations while training that cannot work, as far as that needs no model.

    Args:
        callbacks: nodes by name, of which those with tasks count.
        context: of the model, in tokens.
        items: also make or read the items, which takes seconds.
    Raises:
        PlmError: the task's key and what is wrong: a setting, a missing file.
    """
    for callback, node in callbacks.items():
        nodes = (node or {}).get("tasks")
        if not isinstance(nodes, Mapping):
            continue
        where = f"callbacks.{callback}.tasks."
        single = {n: one for n, one in nodes.items() if one and "_target_" in one}
        for name, task in built(single, where).items():
            if items and hasattr(task, "prepare"):
                _named(where, name, task.prepare, context)


def _named(where: str, name: str, call: Callable[[Any], None], argument: Any) -> None:
    try:
        call(argument)
    except PlmError as error:
        # lm-eval's tasks name themselves.
        said = str(error).removeprefix(f"{name}: ")
        raise type(error)(f"{where}{name}: {said}") from error
