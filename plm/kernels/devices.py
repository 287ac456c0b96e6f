"""Which ops are slower than compiled torch on which GPU: there they are off unless asked for.

`scripts/bench_kernels.py` measures on the GPU that it runs on and writes its verdict into a file of
the user's; no verdict ships with the package, since none of these kernels has run on a GPU yet.
"""

import json
import os
import tempfile
from functools import lru_cache
from pathlib import Path

import torch


def record() -> Path:
    """Where the verdicts of this machine are: PLM_KERNELS, or below the user's cache folder."""
    return Path(os.environ.get("PLM_KERNELS") or user_cache() / "plm" / "kernels.json")


def user_cache() -> Path:
    """The user's folder for what can be made again; a temporary one for a user without a home."""
    try:
        return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache")
    except RuntimeError:
        return Path(tempfile.gettempdir())


@lru_cache(maxsize=1)
def _verdicts() -> dict[str, dict[str, dict]]:
    try:
        found = json.loads(record().read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return {}
    return found if isinstance(found, dict) else {}


def switched_off(op: str, index: int) -> bool:
    """Whether an op lost to compiled torch on this GPU.

    Args:
        op: its name.
        index: of the GPU.
    """
    verdicts = _verdicts()
    if not verdicts:
        return False
    of_device = verdicts.get(torch.cuda.get_device_name(index), {})
    return bool(of_device.get(op, {}).get("off", False))
