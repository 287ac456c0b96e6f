"""Settings of the small command lines: key=value, over defaults."""

from collections.abc import Collection
from pathlib import Path
from typing import Any

from plm.errors import ConfigError
from plm.explain import check_packages


def given(arguments: list[str], keys: Collection[str]) -> dict[str, str]:
    """The key=value arguments alone, as text.

    Raises:
        ConfigError: another key, or no value.
    """
    found = {}
    for argument in arguments:
        key, equals, value = argument.partition("=")
        if key not in keys or not equals or not value:
            raise ConfigError(f"{argument!r} is not one of {', '.join(f'{k}=…' for k in keys)}")
        found[key] = value
    return found


def read(
    arguments: list[str],
    defaults: dict[str, Any],
    *,
    numbers: Collection[str] = (),
    flags: Collection[str] = (),
    lists: Collection[str] = (),
) -> dict[str, Any]:
    """The defaults, with the key=value arguments over them.

    Args:
        arguments: of the command line.
        defaults: every key that there is.
        numbers, flags, lists: keys whose values are whole numbers, true or false, [a,b,c].
    Raises:
        ConfigError: an unknown key, or a value of the wrong kind.
    """
    from difflib import get_close_matches

    check_packages()
    chosen = dict(defaults)
    for argument in arguments:
        key, equals, value = argument.partition("=")
        if not equals or key not in defaults:
            near = get_close_matches(key, defaults, n=1)
            hint = f"did you mean {near[0]}=…?" if near else f"known: {', '.join(defaults)}"
            if not equals and "run" in defaults and Path(argument).exists():
                hint = f"did you mean run={argument}?"
            elif not equals and "run" in defaults and ("/" in argument or "\\" in argument):
                hint = "there is no such folder; a folder is given as run=<folder>"
            raise ConfigError(f"unknown setting {argument!r}; {hint}")
        if key in numbers:
            try:
                chosen[key] = int(value.replace("_", ""))
            except ValueError as error:
                raise ConfigError(f"{key}={value} is not a whole number") from error
        elif key in flags:
            if value.lower() not in ("true", "false"):
                raise ConfigError(f"{key}={value} must be true or false")
            chosen[key] = value.lower() == "true"
        elif key in lists:
            items = value.removeprefix("[").removesuffix("]").split(",")
            chosen[key] = [item.strip().strip("\"'") for item in items if item.strip()]
        else:
            chosen[key] = value
    return chosen
