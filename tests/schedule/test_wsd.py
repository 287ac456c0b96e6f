import pytest

from plm.errors import ConfigError
from plm.schedule.common import Segment
from plm.schedule.wsd import wsd

PHASES = [Segment(600, "hold", 0.7, warmup_tokens=50), Segment(400, "cosine", 0.3)]


def test_ignores_the_phases_rates():
    schedule = wsd(PHASES, start_tokens=10, decay_share=0.25, shape="linear", final=0.2)
    tokens = (35, 60, 760, 885, 1010, 5000)
    assert [schedule(t) for t in tokens] == pytest.approx([0.5, 1, 1, 0.6, 0.2, 0.2])


def test_says_so(caplog):
    with caplog.at_level("INFO"):
        wsd(PHASES)
    assert "schedule=wsd: the phases' rate segments are not used" in caplog.text


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"decay_share": 1.0}, r"schedule\.decay_share=1\.0 is not between 0 and 1"),
        ({"decay_share": 0}, r"schedule\.decay_share=0 is not between 0 and 1"),
        ({"shape": "step"}, "schedule=wsd: decay.shape='step' is not one of"),
        ({"final": -1}, r"schedule=wsd: decay\.to=-1 is not a share"),
        ({"decay_share": 0.96}, r"schedule=wsd: stable\.warmup_tokens=50 is outside 0 to 40"),
    ],
)
def test_errors(settings: dict, message: str):
    with pytest.raises(ConfigError, match=message):
        wsd(PHASES, **settings)
