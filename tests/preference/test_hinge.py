import pytest

from plm.errors import ConfigError
from plm.preference.hinge import hinge
from tests.preference.common import at, drawn, gradients


def test_by_hand_and_far_pairs_are_left_alone():
    policy, reference = at([-1.0, 1.0, 3.0], ["nothing"] * 3)
    total, count = hinge(policy, reference, beta=0.5)
    assert total.item() == pytest.approx(1.5 + 0.5, abs=1e-15) and count == 3
    chosen, rejected = gradients(total, policy)
    assert chosen.tolist() == [-0.5, -0.5, 0] and rejected.tolist() == [0.5, 0.5, 0]


def test_errors():
    with pytest.raises(ConfigError, match=r"preference\.beta=-0\.5 must be a number above 0"):
        hinge(*drawn(["nothing"]), beta=-0.5)
