"""Runs tasks on a subject and leaves everything else as it was."""

import os
import random
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import numpy as np
import torch
from torch import nn

from plm.evaluation.common import Part, Result, Share

Gather = Callable[[Part], list[Part]]


def evaluate(
    subject: Any,
    tasks: Mapping[str, Any],
    *,
    share: Share = Share(),  # noqa: B008
    gather: Gather = lambda part: [part],
    tell: Callable[[str, Result, float], None] = lambda name, result, seconds: None,
) -> dict[str, Result]:
    """Every task's result, the same on every process.

    Args:
        subject: the model, whole on each process.
        tasks: by name.
        share: this process's part of the items.
        gather: the parts of all processes; every process calls it once a task.
        tell: told of each task that has ended, what came of it, and how long it took.
    """
    found = {}
    for name, task in tasks.items():
        begun = time.perf_counter()
        with undisturbed(subject.model):
            part = task.run(subject, share)
        found[name] = task.result(subject, gather(part))
        tell(name, found[name], time.perf_counter() - begun)
    return found


@contextmanager
def undisturbed(model: nn.Module) -> Iterator[None]:
    """Evaluation mode and no gradients inside; afterwards modes and generators are as before.

    Tasks may draw from, or seed, the process's own generators (lm-eval seeds all of them), and set
    environment variables.
    """
    modes = [(module, module.training) for module in model.modules()]
    states = random.getstate(), np.random.get_state(), torch.get_rng_state()
    devices = torch.cuda.get_rng_state_all() if torch.cuda.is_available() else []
    environment = dict(os.environ)
    model.eval()
    try:
        with torch.no_grad():
            yield
    finally:
        for module, training in modes:
            module.training = training
        random.setstate(states[0])
        np.random.set_state(states[1])
        torch.set_rng_state(states[2])
        if devices:
            torch.cuda.set_rng_state_all(devices)
        _restore(environment)


def _restore(environment: dict[str, str]) -> None:
    for name in set(os.environ) - set(environment):
        del os.environ[name]
    os.environ.update({k: v for k, v in environment.items() if os.environ.get(k) != v})


def across_ranks(part: Part) -> list[Part]:
    """The parts of all ranks of a run, in their order."""
    world = torch.distributed.get_world_size()
    found: list[Any] = [None] * world
    torch.distributed.all_gather_object(found, part)
    return found
