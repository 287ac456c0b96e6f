"""Whether a run can go on from where it begins: the same data, the same conditions."""

import logging
import os
import platform
from importlib.metadata import version
from importlib.util import find_spec
from typing import Any

import torch

from plm import products
from plm.errors import CheckpointError

log = logging.getLogger("plm")


def check_data(start: Any, settings: dict[str, Any], prepared: Any) -> None:
    """Refuse a position in other data.

    Args:
        start: a plm.handoff.Start whose optimizer and position are taken over.
        settings: of the run.
        prepared: its data.
    Raises:
        CheckpointError: what differs, and which switch goes on all the same.
    """
    meta = start.meta
    if meta["optimizer"] != settings["optimizer"]["_target_"]:
        raise CheckpointError(
            f"{start.path} holds the state of {meta['optimizer']}, this run has "
            f"{settings['optimizer']['_target_']}; init=weights takes the weights alone"
        )
    if (meta["seed"], meta["block_tokens"]) != (settings["seed"], prepared.block_tokens):
        log.warning(
            "%s read its data with seed=%s in blocks of %s tokens: in another order, text that "
            "it has read may come again",
            start.path,
            meta["seed"],
            meta["block_tokens"],
        )
    there, now = meta["fingerprint"], prepared.fingerprint
    if there != now and not settings["data"]["allow_changed"]:
        raise CheckpointError(
            f"{start.path} was trained on data {there[:12]}, here are {now[:12]}: the "
            "position would name other text; init=weights takes the weights alone, "
            "data.allow_changed=true goes on all the same"
        )


def check_conditions(start: Any) -> None:
    """Warn where a run goes on elsewhere than it began."""
    here = conditions()
    for key, value in start.meta["conditions"].items():
        if here.get(key) != value:
            log.warning(
                "%s was %s when the checkpoint was written and is %s now: the run goes on, but "
                "not bit for bit as undisturbed",
                key,
                value,
                here.get(key),
            )


def conditions() -> dict[str, Any]:
    """What equality bit for bit depends on, besides the configuration."""
    return {
        "python": platform.python_version(),
        "torch": torch.__version__,
        "threads": torch.get_num_threads(),
        "cpu": torch.backends.cpu.get_cpu_capability(),
        "products": products.in_use(),
        "gpu": torch.cuda.get_device_name() if torch.cuda.is_available() else "",
        "triton": version("triton") if torch.cuda.is_available() and find_spec("triton") else "",
        "world_size": int(os.environ.get("WORLD_SIZE", "1")),
    }
