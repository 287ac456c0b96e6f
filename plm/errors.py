"""The errors a user may meet, each with the exit code that the process ends with."""

SECOND_CTRL_C = 130
"""Exit code of a run that was left without waiting for the step in hand."""


class PlmError(Exception):
    """Base of what is shown as one line, without a traceback."""

    exit_code = 2


class ConfigError(PlmError):
    """A setting that cannot work: the key, what came, the rule, a way out."""


class DataError(PlmError):
    """A source, shard or document that cannot be used: the file, the row, why."""


class Unfinished(DataError):
    """Preparing data stopped for want of disk, memory or network; the same command goes on."""


class CheckpointError(PlmError):
    """A checkpoint that is torn, missing or does not fit: the file, what differs."""


class GuardStop(PlmError):
    """A guard ended the run (bad steps, disk, alarm); what was saved stays."""

    exit_code = 3


class Interrupted(PlmError):
    """Stopped from outside with the state saved; the same command goes on."""

    exit_code = 75
