import statistics

import pytest

from plm.advantage.group import group
from plm.errors import ConfigError
from tests.policy.common import scored


def test_by_hand():
    rewards = [1.0, 0.0, 0.0, 1.0, 0.25, 0.5]
    found = group(scored([[r] for r in rewards], 3, [1.0]), eps=0.01).tolist()
    for at in (0, 3):
        its = rewards[at : at + 3]
        mean, deviation = statistics.mean(its), statistics.stdev(its)
        expected = [(r - mean) / (deviation + 0.01) for r in its]
        assert found[at : at + 3] == pytest.approx(expected, abs=1e-14)


def test_kinds_are_added_first():
    """Rewards that cancel teach nothing, which `decoupled` sees differently."""
    assert group(scored([[1.0, 0.0], [0.0, 1.0]], 2, [1.0, 1.0])).tolist() == [0, 0]


@pytest.mark.parametrize("eps", [0, -1e-4, None, True])
def test_errors(eps):
    with pytest.raises(ConfigError, match=r"advantage\.eps=.* must be a number above 0"):
        group(scored([[1.0]], 1, [1.0]), eps=eps)
