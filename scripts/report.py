"""Rebuild the report of a run from its folder.

    python scripts/report.py run=runs/plm_pretrain
    python scripts/report.py run=runs/plm_pretrain picture=docs/loss.svg

run=<folder>     a run folder; report.html is written into it
picture=<file>   also write the loss curve as an SVG of its own
"""

import sys
from pathlib import Path

# The checkout need not be installed: its root is not where Python looks for a script's imports.
sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from plm.errors import ConfigError, PlmError
from plm.report import loss_picture, write_report
from scripts.arguments import given

_KEYS = ("run", "picture")


def main(arguments: list[str]) -> int:
    """Build what the arguments ask for; the exit code."""
    if any(argument in ("-h", "--help") for argument in arguments):
        print(__doc__)
        return 0
    try:
        settings = _settings(arguments)
        print(write_report(Path(settings["run"])))
        if "picture" in settings:
            print(loss_picture(Path(settings["run"]), Path(settings["picture"])))
    except PlmError as error:
        print(f"error: {error}", file=sys.stderr)
        return error.exit_code
    return 0


def _settings(arguments: list[str]) -> dict[str, str]:
    settings = given(arguments, _KEYS)
    if "run" not in settings:
        raise ConfigError("run=<run folder> is missing, for example run=runs/plm_pretrain")
    return settings


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
