"""Limits that cannot work are refused by name."""

import pytest

from plm.errors import ConfigError
from plm.sandbox import STATUSES, Limits


@pytest.mark.parametrize(
    ("given", "text"),
    [
        ({"cpu_s": 0}, "limits.cpu_s=0 must be positive"),
        ({"wall_s": float("inf")}, "limits.wall_s=inf must be positive and finite"),
        ({"cpu_s": float("nan")}, "limits.cpu_s=nan"),
        ({"processes": 1.5}, "limits.processes=1.5 is not a number of its kind"),
        ({"processes": True}, "limits.processes=True"),
        ({"output_kib": "64"}, "limits.output_kib='64'"),
        ({"memory_mib": 8}, "at least 64"),
    ],
)
def test_a_limit_that_cannot_work(given, text):
    with pytest.raises(ConfigError, match=text):
        Limits(**given)


def test_whole_numbers_do_for_seconds():
    assert Limits(cpu_s=1, wall_s=2).cpu_s == 1


def test_the_names_of_ends():
    assert len(STATUSES) == len(set(STATUSES)) == 8
