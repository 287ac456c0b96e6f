import math
import pickle

import pytest

from plm.errors import ConfigError
from plm.schedule.common import Segment
from plm.schedule.wsdc import wsdc


def test_the_papers_three_phases():
    schedule = wsdc(
        [
            Segment(1000, "hold", 1.0, warmup_tokens=100),
            Segment(400, "linear", 0.2),
            Segment(100, "hold", 0.2),
        ]
    )
    tokens = (0, 1, 50, 100, 101, 1000, 1100, 1400, 1401, 1500, 9999)
    shares = (0, 0.01, 0.5, 1, 1, 1, 0.8, 0.2, 0.2, 0.2, 0.2)
    assert [schedule(t) for t in tokens] == pytest.approx(shares)


@pytest.mark.parametrize(
    ("shape", "middle"),
    [
        ("linear", 0.5 * (1 + 0.1)),
        ("cosine", 0.1 + 0.9 * 0.5 * (1 + math.cos(math.pi / 2))),
        ("one_minus_sqrt", 0.1 + 0.9 * (1 - math.sqrt(0.5))),
        ("exponential", math.sqrt(0.1)),
    ],
)
def test_shapes(shape: str, middle: float):
    schedule = wsdc([Segment(200, shape, 0.1)])
    assert schedule(0) == pytest.approx(1)
    assert schedule(100) == pytest.approx(middle)
    assert schedule(200) == 0.1
    values = [schedule(t) for t in range(201)]
    assert values == sorted(values, reverse=True)


def test_warm_up_is_followed_by_the_shape_over_the_rest():
    schedule = wsdc([Segment(100, "linear", 0.0, warmup_tokens=20, start=0.5)])
    assert [schedule(t) for t in (10, 20, 60, 100)] == pytest.approx([0.25, 0.5, 0.25, 0])


def test_a_fork_of_the_decay_continues_the_whole_run():
    parts = [Segment(700, "hold", 1.0, 100), Segment(200, "cosine", 0.1), Segment(50, "hold", 0.1)]
    whole, fork = wsdc(parts), wsdc(parts[1:], start_tokens=700)
    assert [fork(t) for t in range(700, 1000)] == [whole(t) for t in range(700, 1000)]
    assert fork(3) == 1


def test_a_start_replaces_where_the_segment_before_ended():
    schedule = wsdc([Segment(10, "hold", 1.0), Segment(10, "linear", 0.1, start=0.5)])
    assert schedule(10) == 1 and schedule(11) == pytest.approx(0.46)


def test_counts_of_trillions_stay_exact():
    schedule = wsdc(
        [Segment(1_650_000_000_000, "hold", 1.0), Segment(550_000_000_000, "linear", 0)]
    )
    assert schedule(1_650_000_000_000) == 1 > schedule(1_650_000_000_001)


def test_pickles():
    schedule = wsdc([Segment(10, "linear", 0.0)])
    assert pickle.loads(pickle.dumps(schedule))(3) == schedule(3)


@pytest.mark.parametrize(
    ("segment", "message"),
    [
        (Segment(9, "step", 1), "shape='step' is not one of: hold, linear, cosine, one_minus_sqrt"),
        (Segment(0, "hold", 1), "the phase has 0 tokens; it needs at least 1"),
        (Segment(9, "hold", -0.1), r"to=-0\.1 is not a share of the peak rate"),
        (Segment(9, "hold", 30), "to=30 is not a share of the peak rate"),
        (Segment(9, "linear", 0, start=2), "start=2 is not a share of the peak rate"),
        (Segment(9, "hold", 1, warmup_tokens=10), "warmup_tokens=10 is outside 0 to 9"),
        (Segment(9, "linear", 0, warmup_tokens=9), "warmup_tokens=9 is outside 0 to 8"),
        (Segment(9, "hold", 1, warmup_tokens=-1), "warmup_tokens=-1 is outside 0 to 9"),
        (Segment(9, "hold", 1, start=1), "start=1 has no meaning with shape=hold"),
        (Segment(9, "exponential", 0), r"shape=exponential goes from 1\.0 to 0"),
    ],
)
def test_errors_name_the_phase_and_the_key(segment: Segment, message: str):
    with pytest.raises(ConfigError, match=r"phases\.1\.rate\S* ?.*" + message):
        wsdc([Segment(5, "hold", 1.0), segment])


def test_other_errors():
    with pytest.raises(ConfigError, match=r"phases\.decay\.rate\.shape='x'"):
        wsdc([Segment(5, "x", 1.0, name="decay")])
    with pytest.raises(ConfigError, match="at least one phase"):
        wsdc([])
    with pytest.raises(ConfigError, match="cannot start at -1 tokens"):
        wsdc([Segment(5, "hold", 1.0)], start_tokens=-1)
