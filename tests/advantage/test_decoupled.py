import pytest

from plm.advantage.decoupled import decoupled
from plm.advantage.group import group
from plm.errors import ConfigError
from tests.policy.common import scored


def test_by_hand():
    kinds = [[1.0, 0.2], [0.0, 0.6], [1.0, 0.5], [1.0, 0.1]]
    found = decoupled(scored(kinds, 2, [1.0, 0.5]), eps=1e-12)
    # Of two values the normalised ones are ±1/√2; the second group's first kind does not vary.
    root = 2**-0.5
    added = [0.5 * root, -0.5 * root, 0.5 * root, -0.5 * root]
    deviation = (sum(a * a for a in added) / 3) ** 0.5
    assert found.tolist() == pytest.approx([a / deviation for a in added], abs=1e-11)


def test_rewards_of_equal_sum_stay_different():
    """(1, 0) and (0, 1) and (0.5, 0.5): of the sum nothing is left to see."""
    kinds = [[1.0, 0.0], [0.0, 0.1], [0.9, 0.1], [0.0, 1.0]]
    assert group(scored(kinds, 4, [1.0, 1.0]))[0] == group(scored(kinds, 4, [1.0, 1.0]))[2]
    found = decoupled(scored(kinds, 4, [1.0, 1.0]))
    assert abs(found[0] - found[2]) > 0.01


def test_a_kind_that_hardly_varies_counts_as_much():
    kinds = [[1.0, 0.501], [0.0, 0.5], [1.0, 0.5], [0.0, 0.501]]
    both = decoupled(scored(kinds, 4, [1.0, 1.0]), eps=1e-12)
    assert both.tolist() == pytest.approx([1.5**0.5, -(1.5**0.5), 0, 0], abs=1e-8)


def test_errors():
    with pytest.raises(ConfigError, match=r"advantage\.eps=0 must be a number above 0"):
        decoupled(scored([[1.0]], 1, [1.0]), eps=0)
