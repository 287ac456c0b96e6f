"""Which prompts of a run of stage=rlvr varied the most: one-shot RLVR learns from one of them.

    python scripts/rank_prompts.py run=runs/plm_rlvr
    python scripts/rank_prompts.py run=runs/plm_rlvr number=50

run=<folder>     a run folder of stage=rlvr, finished or not
number=<number>  of prompts that are printed; 10 by default

A run takes one of them by data.sources.<source>.only=[<name>].
"""

import sys
from pathlib import Path

# The checkout need not be installed: its root is not where Python looks for a script's imports.
sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from plm.errors import ConfigError, PlmError
from scripts.arguments import read


def main(arguments: list[str]) -> int:
    """Print the ranking; the exit code."""
    if any(argument in ("-h", "--help") for argument in arguments):
        print(__doc__)
        return 0
    try:
        _rank(read(arguments, {"run": None, "number": 10}, numbers=("number",)))
    except PlmError as error:
        print(f"error: {error}", file=sys.stderr)
        return error.exit_code
    return 0


def _rank(settings: dict) -> None:
    from plm.rlvr.history import FILE, ranked

    if not settings["run"]:
        raise ConfigError("run=<run folder> is missing, for example run=runs/plm_rlvr")
    folder = Path(settings["run"])
    if not (folder / FILE).is_file():
        raise ConfigError(f"run={folder}: there is no {FILE}; name a run of stage=rlvr")
    print(f"{'variance':>8}  {'accuracy':>8}  {'times':>5}  prompt")
    for one in ranked(folder)[: settings["number"]]:
        numbers = f"{one.variance:8.4f}  {one.accuracy:8.4f}  {one.times:5d}"
        print(f"{numbers}  {one.source}: {one.name}")


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
