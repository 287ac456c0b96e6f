import statistics

import pytest

from plm.advantage.batch import batch
from plm.errors import ConfigError
from tests.policy.common import scored

REWARDS = [1.0, 0.0, 0.5, 0.25, 0.75, 0.75]


def test_less_the_groups_mean():
    moved = [0.5, -0.5, 0.125, -0.125, 0, 0]
    deviation = statistics.stdev(moved) + 0.01
    found = batch(scored([[r] for r in REWARDS], 2, [1.0]), eps=0.01).tolist()
    assert found == pytest.approx([m / deviation for m in moved], abs=1e-15)


@pytest.mark.parametrize("size", [1, 2, 6])
def test_less_the_batchs_mean(size: int):
    mean, deviation = statistics.mean(REWARDS), statistics.stdev(REWARDS) + 0.01
    given = scored([[r] for r in REWARDS], size, [1.0])
    found = batch(given, baseline="none", eps=0.01).tolist()
    assert found == pytest.approx([(r - mean) / deviation for r in REWARDS], abs=1e-15)


@pytest.mark.parametrize("baseline", ["batch", None, 1])
def test_errors(baseline):
    with pytest.raises(ConfigError, match=r"advantage\.baseline=.* must be one of: group, none"):
        batch(scored([[1.0]], 1, [1.0]), baseline=baseline)
