"""What each kind takes and what it does not; tests of choices try the tasks' own settings."""

from typing import Any

import pytest

from plm.errors import ConfigError
from plm.evaluation.kinds import WORDS, check_kinds

VALUES = [1, 1.5, True, "a", ["a"], [1], {"a": 1}, None]
TAKEN: dict[Any, list[Any]] = {
    int: [1],
    float: [1, 1.5],
    bool: [True],
    str: ["a"],
    list: [["a"], [1]],
    dict: [{"a": 1}],
    list[str]: [["a"]],
}


@pytest.mark.parametrize("kind", WORDS, ids=str)
def test_each_kind_takes_its_own_values_alone(kind: Any):
    for value in VALUES:
        # True == 1 in a list, so types are compared as well.
        fits = any(value == one and type(value) is type(one) for one in TAKEN[kind])
        if fits:
            check_kinds({"x": value}, {"x": kind})
        else:
            with pytest.raises(ConfigError, match=r"^x=.* is not "):
                check_kinds({"x": value}, {"x": kind})
        if fits or value is None:
            check_kinds({"x": value}, {"x": (kind, None)})


def test_the_message_says_what_it_should_be():
    with pytest.raises(ConfigError, match=r"^n=abc is not a whole number or null$"):
        check_kinds({"a": 1, "n": "abc"}, {"a": int, "n": (int, None)})
