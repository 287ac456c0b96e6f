"""What kind of value each setting of a task takes, checked before it is used.

Settings come from YAML and from the command line: `n=abc` is a text there, and `lookup=maybe` too.
"""

from collections.abc import Mapping, Sequence
from difflib import get_close_matches
from typing import Any

from plm.errors import ConfigError

WORDS: dict[Any, str] = {
    int: "a whole number",
    float: "a number",
    bool: "true or false",
    str: "text",
    list: "a list, [a,b]",
    dict: "a mapping, {a: …}",
    list[str]: "a list of names, [a,b]",
}


def check_kinds(settings: Mapping[str, Any], kinds: Mapping[str, Any]) -> None:
    """Refuse values of another kind.

    Args:
        settings: by name.
        kinds: by the same names, one of `WORDS`, or `(kind, None)` where null is a value too; a
            whole number is a number, and true is none.
    Raises:
        ConfigError: the setting, its value and what it should be.
    """
    for name, kind in kinds.items():
        several = kind if isinstance(kind, tuple) else (kind,)
        if not any(_fits(settings[name], one) for one in several):
            wanted = WORDS[several[0]] + (" or null" if None in several else "")
            raise ConfigError(f"{name}={settings[name]} is not {wanted}")


def unknown(name: str, value: Any, known: Sequence[str], within: str = "") -> ConfigError:
    """The error for a setting that is not there, with those that are.

    Args:
        name, value: as they came.
        known: names that could have been meant.
        within: path of the mapping that they lie in, with a dot at its end.
    """
    near = get_close_matches(name, known, n=1)
    hint = f"did you mean {within}{near[0]}?" if near else f"there are {', '.join(known)}"
    return ConfigError(f"unknown setting {within}{name}={value}; {hint}")


def _fits(value: Any, kind: Any) -> bool:
    if kind is None:
        return value is None
    if kind in (int, float):
        # True is 1 in Python, and no number here.
        wanted = int if kind is int else int | float
        return isinstance(value, wanted) and not isinstance(value, bool)
    if kind == list[str]:
        # A text is a sequence of texts as well: its letters.
        return isinstance(value, list | tuple) and all(isinstance(one, str) for one in value)
    if kind is list:
        return isinstance(value, list | tuple)
    return isinstance(value, Mapping if kind is dict else kind)
