"""Tasks by name: the YAML files of configs/task, with settings over them."""

from pathlib import Path
from typing import Any

import yaml

from plm.config import build, check_targets
from plm.errors import ConfigError

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
        shared: settings for every task that has them in its file.
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
        having = [node for node in found.values() if key in node]
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


def _set(node: dict[str, Any], task: str, path: str, value: Any) -> None:
    *parents, last = path.split(".")
    at = node
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


def built(found: dict[str, dict[str, Any]]) -> dict[str, Any]:
    """The tasks that nodes describe.

    Raises:
        ConfigError: a target that is not allowed, or settings that it does not take.
    """
    tasks = {}
    for name, node in found.items():
        check_targets(node, name)
        try:
            tasks[name] = build(node)
        except ConfigError as error:
            raise ConfigError(f"{name}: {error}") from error
    return tasks
