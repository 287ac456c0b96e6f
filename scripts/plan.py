"""What a run would cost: parameters, FLOPs, tokens, memory, sizes, hours; nothing is allocated.

    python scripts/plan.py +experiment=plm_pretrain scale=1_8b gpu=H100 gpus=8 mfu=0.4 price=2.5

gpu=<name>       a GPU of the table, H100 by default; gpus=<n> of them, 1 by default
mfu=<share>      of its bf16 peak to count with, 0.4 by default
price=<number>   of one GPU-hour, in any currency
tokens_of=<source>:<count>,…   how much there is of a source, for example prose:1.3T,code:200B;
                 else what is prepared here, else what the recipe says is published
json=true        print JSON
All else goes to the configuration, as with train.py.
"""

import json
import sys
from pathlib import Path
from typing import Any

# The checkout need not be installed: its root is not where Python looks for a script's imports.
sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from plm.config import register_resolvers
from plm.errors import ConfigError, PlmError
from plm.explain import explain

CONFIGS = Path(__file__).resolve().parents[1] / "configs"

_UNITS = {"": 1, "k": 1e3, "M": 1e6, "B": 1e9, "T": 1e12}


def _number(key: str, text: str, kind: type) -> Any:
    try:
        return kind(text)
    except ValueError:
        raise ConfigError(f"{key}={text} is not a number") from None


def _flag(key: str, text: str) -> bool:
    if text.lower() not in ("true", "false"):
        raise ConfigError(f"{key}={text} is not true or false")
    return text.lower() == "true"


def _counts(key: str, text: str) -> dict[str, int]:
    found = {}
    for entry in text.split(","):
        name, sign, count = entry.partition(":")
        unit = count[-1:] if count[-1:] in _UNITS else ""
        digits = count.removesuffix(unit) if unit else count
        if not sign or not name or not digits:
            raise ConfigError(f"{key}={text}: {entry!r} is not like prose:1.3T")
        found[name] = round(_number(f"{key}: {name}", digits, float) * _UNITS[unit])
    return found


_OWN = {
    "gpu": lambda key, text: text,
    "gpus": lambda key, text: _number(key, text, int),
    "mfu": lambda key, text: _number(key, text, float),
    "price": lambda key, text: _number(key, text, float),
    "tokens_of": _counts,
    "json": _flag,
}


def compose(overrides: list[str]) -> dict[str, Any]:
    """The configuration that train.py would run with, checked and plain.

    Args:
        overrides: as on train.py's command line.
    """
    import hydra

    from plm.app import settle

    register_resolvers()
    with hydra.initialize_config_dir(version_base="1.3", config_dir=str(CONFIGS)):
        config = hydra.compose("train", overrides=overrides)
        asked = config.precision
        # This machine need not have the instructions that the planned one has.
        config.precision = "auto"
        return {**settle(config), "precision": asked}


def main(arguments: list[str]) -> int:
    """Print the plan; the exit code."""
    if any(argument in ("-h", "--help") for argument in arguments):
        print(__doc__)
        return 0
    own: dict[str, Any] = {}
    rest = []
    try:
        for argument in arguments:
            key, sign, value = argument.partition("=")
            if sign and key in _OWN:
                own[key] = _OWN[key](key, value)
            else:
                rest.append(argument)
        # What looks for the nearest names composes the command line again.
        sys.argv[1:] = rest
        settings = compose(rest)
        from plm.plan import draw_up
        from plm.plan_text import as_text

        as_json = own.pop("json", False)
        plan = draw_up(settings, there=own.pop("tokens_of", None), **own)
        print(json.dumps(plan, indent=1) if as_json else as_text(plan))
    except PlmError as error:
        print(error, file=sys.stderr)
        return error.exit_code
    except Exception as error:
        line = explain(error, CONFIGS)
        if line is None:
            raise
        print(line, file=sys.stderr)
        return 2
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
