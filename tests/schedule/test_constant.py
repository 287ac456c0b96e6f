import pytest

from plm.errors import ConfigError
from plm.schedule.common import Segment
from plm.schedule.constant import constant


def test_ignores_the_phases_rates():
    schedule = constant([Segment(600, "hold", 0.7, 200), Segment(400, "linear", 0.3)], 1000)
    assert [schedule(t) for t in (1100, 1200, 1900, 9000)] == [0.5, 1, 1, 1]


def test_errors():
    with pytest.raises(ConfigError, match=r"schedule=constant: rate\.warmup_tokens=6 is outside"):
        constant([Segment(5, "hold", 1.0, warmup_tokens=6)])
