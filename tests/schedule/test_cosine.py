import pytest

from plm.errors import ConfigError
from plm.schedule.common import Segment
from plm.schedule.cosine import cosine

PHASES = [Segment(600, "hold", 0.7, warmup_tokens=200), Segment(400, "linear", 0.3)]


def test_ignores_the_phases_rates():
    schedule = cosine(PHASES, final=0.2)
    assert [schedule(t) for t in (100, 200, 600, 1000, 5000)] == pytest.approx(
        [0.5, 1, 0.6, 0.2, 0.2]
    )


def test_errors():
    with pytest.raises(ConfigError, match=r"schedule=cosine: rate\.to=1\.5 is not a share"):
        cosine(PHASES, final=1.5)
    with pytest.raises(ConfigError, match="at least one phase"):
        cosine([])
