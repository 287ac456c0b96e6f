"""Tasks whose answers have turns: each is drawn in an environment of configs/environment."""

from collections.abc import Mapping
from functools import partial
from pathlib import Path
from typing import Any

import yaml

from plm.config import build, check_targets
from plm.errors import ConfigError
from plm.evaluation.generated import Generated

CONFIGS = Path(__file__).resolve().parents[2] / "configs" / "environment"


def within(tasks: Mapping[str, Any], name: str, own: Mapping[str, Any]) -> None:
    """Have the tasks' answers drawn in an environment, at each task's temperature and top_p.

    Args:
        tasks: by name; changed in place.
        name: of configs/environment.
        own: settings over it.
    Raises:
        ConfigError: no such environment or setting, or a task whose answers are not generated.
    """
    there = sorted(path.stem for path in CONFIGS.glob("*.yaml"))
    if name not in there:
        raise ConfigError(f"environment={name}: there are {', '.join(there)}")
    node = yaml.safe_load((CONFIGS / f"{name}.yaml").read_text(encoding="utf-8"))
    for key, value in own.items():
        if key not in node or key in ("temperature", "top_p", "_target_", "_partial_"):
            raise ConfigError(
                f"environment.{key}={value}: {name} has "
                f"{', '.join(k for k in node if not k.startswith('_'))}; a task says at which "
                "temperature and top_p"
            )
        node[key] = value
    check_targets(node, "environment")
    environment = build(node)
    for task_name, task in tasks.items():
        if not isinstance(task, Generated):
            raise ConfigError(
                f"environment={name}: {task_name} has no answers that are generated one by one, "
                "as exercises, gsm8k and humaneval have"
            )
        drawn = {"temperature": task.draw.temperature, "top_p": task.draw.top_p}
        task.environment = partial(environment, **drawn)
        task.settings = {**task.settings, "environment": {"name": name, **dict(own)}}
