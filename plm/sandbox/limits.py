"""What a program may use, and what became of it."""

import math
from dataclasses import dataclass, fields

from plm.errors import ConfigError

STATUSES = "ok failed cpu_time wall_time memory output processes killed".split()
STRETCH = 10
"""At most so many times its wall time a program has where others keep it from the processor."""


@dataclass(frozen=True)
class Limits:
    """What one program may use, all its processes together where nothing else is said.

    Attributes:
        cpu_s: seconds of processor time. This decides; wall time is for what sleeps.
        wall_s: seconds on the clock. Those in which the program was ready and others had the
            processor do not count (Linux), up to `STRETCH` times this.
        memory_mib: address space of each process, and resident memory of all of them.
        file_mib: size of one file, and of all files where the folder is a tmpfs.
        processes: processes and threads alive at one time, the first one included.
        output_kib: bytes kept of stdout, and of stderr; a program that writes more is ended.
    Raises:
        ConfigError: a limit that is not a positive number, or too small for Python to start.
    """

    cpu_s: float = 5.0
    wall_s: float = 10.0
    memory_mib: int = 512
    file_mib: int = 16
    processes: int = 16
    output_kib: int = 64

    def __post_init__(self):
        for field in fields(self):
            value = getattr(self, field.name)
            kinds = (int, float) if field.type in (float, "float") else int
            if isinstance(value, bool) or not isinstance(value, kinds):
                raise ConfigError(f"limits.{field.name}={value!r} is not a number of its kind")
            if not (value > 0 and math.isfinite(value)):
                raise ConfigError(f"limits.{field.name}={value!r} must be positive and finite")
        if self.memory_mib < 64:
            raise ConfigError(
                f"limits.memory_mib={self.memory_mib} is too little for Python; at least 64"
            )


@dataclass(frozen=True)
class Outcome:
    """What became of a program.

    Attributes:
        status: "ok" (exit 0), "failed" (other exit), "cpu_time", "wall_time", "memory", "output",
            "processes" (the limit that it met), or "killed" (by a signal of its own making).
        exit_code: as the program gave it; minus the signal's number where one ended it.
        stdout, stderr: decoded as UTF-8, what is not UTF-8 replaced, cut at `output_kib`.
        cpu_s: processor time of all its processes, some 10 ms of the sandbox's own included.
        wall_s: from its start to the end of its last process.
    """

    status: str
    exit_code: int
    stdout: str
    stderr: str
    cpu_s: float
    wall_s: float
