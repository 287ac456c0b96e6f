"""Limits on how often a source is read."""

import logging

import pytest

from plm.data.epochs import check_epochs
from plm.errors import ConfigError

READ = {"a": 0.5, "b": 6.25}


def test_a_warning_names_the_source(caplog):
    with caplog.at_level(logging.WARNING, logger="plm"):
        check_epochs(READ, 4, "warn")
    assert [r.message for r in caplog.records] == [
        "data.max_epochs=4: the phases read the source b 6.2 times; give it more text, a lower "
        "weight or fewer tokens"
    ]


@pytest.mark.parametrize("most", [None, 7, {"b": 7}, {"a": 1}, {"b": None}])
def test_nothing_to_say(most, caplog):
    with caplog.at_level(logging.WARNING, logger="plm"):
        check_epochs(READ, most, "refuse")
    assert not caplog.records


@pytest.mark.parametrize(
    ("most", "past", "message"),
    [
        (4, "refuse", "data.max_epochs=4: the phases read the source b 6.2 times"),
        ({"b": 6}, "refuse", r"data\.max_epochs\.b=6: the phases read the source b"),
        ({"c": 6}, "warn", r"data\.max_epochs\.c: c is no source of this run; it has a, b"),
        (0, "warn", "data.max_epochs=0 must be a number above 0, or null"),
        ("x", "warn", "data.max_epochs='x' must be a number"),
        (4, "stop", "data.past_max_epochs=stop is not one of warn, refuse"),
    ],
)
def test_refusals(most, past, message):
    with pytest.raises(ConfigError, match=message):
        check_epochs(READ, most, past)
