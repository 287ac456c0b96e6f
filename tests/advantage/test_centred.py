import pytest

from plm.advantage.centred import centred
from plm.errors import ConfigError
from tests.policy.common import scored


def test_by_hand():
    given = scored([[1.0], [0.0], [0.0], [0.0], [0.5], [0.7], [0.6], [0.2]], 4, [1.0])
    expected = [0.75, -0.25, -0.25, -0.25, 0, 0.2, 0.1, -0.3]
    assert centred(given).tolist() == pytest.approx(expected, abs=1e-15)
    twice = [2 * value for value in expected]
    assert centred(given, scale=2.0).tolist() == pytest.approx(twice, abs=1e-15)


@pytest.mark.parametrize("scale", [0, -1.0, "2"])
def test_errors(scale):
    with pytest.raises(ConfigError, match=r"advantage\.scale=.* must be a number above 0"):
        centred(scored([[1.0]], 1, [1.0]), scale=scale)
