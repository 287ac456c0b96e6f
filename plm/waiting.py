"""How OpenMP's threads wait for each other: spinning, or asleep.

Spinning is faster while the cores are free, and takes them from others, and from the threads that
are waited for, where they are not (docs/performance.md has both).
"""

import os
import time
from pathlib import Path

SAMPLE_S = 0.1
BUSY = 0.2


def busy_share(stat: Path = Path("/proc/stat")) -> float | None:
    """Share of all cores' time that is in use just now; None where the system does not tell."""
    try:
        first = _jiffies(stat)
        time.sleep(SAMPLE_S)
        total, idle = (b - a for a, b in zip(first, _jiffies(stat), strict=True))
    except (OSError, ValueError, IndexError):
        return None
    return 1 - idle / total if total > 0 else None


def _jiffies(stat: Path) -> tuple[int, int]:
    """Of all cores together: all time, and what was idle or waiting for a disk."""
    fields = [int(field) for field in stat.read_text("ascii").splitlines()[0].split()[1:]]
    return sum(fields[:8]), fields[3] + fields[4]


def choose() -> None:
    """Let waiting threads sleep where other work is using the cores. To be called before torch is
    loaded; what the user has set stays.
    """
    if "OMP_WAIT_POLICY" in os.environ or "GOMP_SPINCOUNT" in os.environ:
        return
    share = busy_share()
    if share is not None and share >= BUSY:
        os.environ["OMP_WAIT_POLICY"] = "PASSIVE"
