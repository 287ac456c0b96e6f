"""Train a small language model: `python train.py +experiment=plm_pretrain`.

Any setting is given as key=value; --cfg job shows all, --help explains groups, -m sweeps.
"""

import os
import sys
import tempfile
from pathlib import Path
from typing import Any

from plm import waiting
from plm.errors import PlmError
from plm.explain import check_packages, explain, help_text

CONFIGS = Path(__file__).parent / "configs"


def compose(config: Any) -> float:
    """Run one composed configuration; in a sweep a failure is raised, never an exit."""
    from hydra.core.hydra_config import HydraConfig

    from plm import app

    in_sweep = HydraConfig.get().mode.name == "MULTIRUN"
    try:
        code, loss = app.start(config, in_sweep)
    except PlmError as error:
        if in_sweep:
            raise
        # Raised through Hydra, it would come with a second line.
        print(error, file=sys.stderr)
        sys.exit(error.exit_code)
    if not in_sweep:
        sys.exit(code)
    if code:
        raise PlmError(f"a job of the sweep ended with exit code {code}")
    return loss


def main() -> int:
    """Run the command line; a user's mistake is one line and exit code 2, --help comes at once."""
    if {"-h", "--help"} & set(sys.argv[1:]):
        print(help_text(CONFIGS))
        return 0
    os.environ.setdefault("HYDRA_FULL_ERROR", "1")
    waiting.choose()
    sweep = Path(tempfile.mkstemp(prefix="plm-sweep-", suffix=".jsonl")[1])
    multirun, code = bool({"-m", "--multirun"} & set(sys.argv[1:])), 0
    if multirun:
        # argparse takes overrides on one side of a flag only.
        sys.argv[1:] = ["-m", *(w for w in sys.argv[1:] if w not in ("-m", "--multirun"))]
        os.environ["PLM_SWEEP_FILE"] = str(sweep)
    try:
        check_packages()
        import hydra

        from plm.config import register_resolvers

        register_resolvers()
        hydra.main(version_base="1.3", config_path=str(CONFIGS), config_name="train")(compose)()
    except PlmError as error:
        print(error, file=sys.stderr)
        code = 1 if multirun else error.exit_code
    except Exception as error:
        if (line := explain(error, CONFIGS)) is None:
            raise
        print(line, file=sys.stderr)
        code = 2
    finally:
        if sweep.stat().st_size:
            from plm.app import sweep_table

            print("\n".join(sweep_table(sweep)))
        sweep.unlink()
    return code


if __name__ == "__main__":
    sys.exit(main())
