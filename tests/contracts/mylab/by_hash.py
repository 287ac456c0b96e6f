"""A reward that tells the texts of an untrained model apart, and can end its process."""

import math
import os
import signal
import zlib
from itertools import count
from typing import Any

_calls = count(1)


def by_hash(completion: str, example: Any, *, unknown: int = 0) -> float:
    """A hundredth of a hash of the text; for `unknown` of a hundred texts it has no score."""
    if next(_calls) == int(os.environ.get("MYLAB_KILLED_AT", "0")):
        os.kill(os.getpid(), signal.SIGKILL)
    number = zlib.crc32(completion.encode()) % 100
    return math.nan if number < unknown else number / 100
