"""Tasks whose answers have turns: each is drawn in an environment of configs/environment."""

from collections.abc import Mapping
from functools import partial
from pathlib import Path
from typing import Any

import yaml

from plm.config import build, check_targets
from plm.environment.common import Asked, Reply
from plm.errors import ConfigError
from plm.evaluation.common import seed_of
from plm.evaluation.generated import Generated, Item

CONFIGS = Path(__file__).resolve().parents[2] / "configs" / "environment"


def answered_in(
    environment: Any, task: Generated, subject: Any, items: list[Item]
) -> tuple[list[list[tuple[str, bool]]], list[int]]:
    """As `Generated.answered`, by an environment.

    Args:
        environment: `(subject, asked) -> replies`, with its settings.
        task: says how long an answer may be, how many there are, and the seed.
        subject: a plm.evaluation.subject.Subject.
        items: which are asked.
    """
    prompts = [subject.prompt(item.question, item.text) for item in items]
    rooms = [min(task.draw.max_new_tokens, subject.max_len - len(prompt)) for prompt in prompts]
    asked = [
        Asked(prompt, room, seed_of(task.draw.seed, item.name), task.draw.samples, item)
        for item, prompt, room in zip(items, prompts, rooms, strict=True)
        if room > 0
    ]
    replies = iter(environment(subject, asked))
    stop = task.stop if subject.chat is None else ()
    found = [
        [_ended(next(replies), stop) for _ in range(task.draw.samples)] if room > 0 else []
        for room in rooms
    ]
    return found, rooms


def _ended(reply: Reply, stop: tuple[str, ...]) -> tuple[str, bool]:
    """Text and whether it was cut; from a stop string on, none of it is the answer."""
    places = [place for one in stop if (place := reply.text.find(one)) >= 0]
    return (reply.text[: min(places)], False) if places else (reply.text, reply.cut)


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
