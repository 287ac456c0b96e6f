"""What every choice of configs/schedule must hold."""

import pickle
from pathlib import Path

import pytest
from omegaconf import OmegaConf

from plm.config import build
from plm.schedule.common import Segment

CHOICES = sorted((Path(__file__).parents[2] / "configs/schedule").glob("*.yaml"))
PHASES = [
    Segment(700, "hold", 1.0, warmup_tokens=60),
    Segment(200, "one_minus_sqrt", 0.05),
    Segment(100, "hold", 0.05),
]
TOKENS = list(range(0, 1400, 7))


@pytest.fixture(params=CHOICES, ids=lambda path: path.stem)
def factory(request):
    return build(OmegaConf.load(request.param))


def test_there_are_choices():
    assert CHOICES


def test_is_a_share(factory):
    schedule = factory(PHASES)
    values = [schedule(t) for t in TOKENS]
    assert all(isinstance(value, float) and 0 <= value <= 1 for value in values)
    # The peak itself may lie between two of these points.
    assert max(values) == pytest.approx(1, abs=1e-3)


def test_is_pure_and_the_same_after_a_resume(factory):
    schedule = factory(PHASES)
    first = [schedule(t) for t in TOKENS]
    backwards = [schedule(t) for t in reversed(TOKENS)]
    assert backwards[::-1] == first
    assert [factory(PHASES)(t) for t in TOKENS] == first
    assert [pickle.loads(pickle.dumps(schedule))(t) for t in TOKENS] == first


def test_the_first_step_moves(factory):
    assert factory(PHASES)(1) > 0
    assert factory(PHASES, 500)(501) == factory(PHASES)(1)


def test_stays_at_the_last_value(factory):
    schedule = factory(PHASES)
    assert schedule(1000) == schedule(1001) == schedule(10**15)
