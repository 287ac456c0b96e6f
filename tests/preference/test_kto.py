import math

import pytest

from plm.errors import ConfigError
from plm.preference.kto import kto
from tests.preference.common import at, drawn, gradients, part


def sigmoid(value: float) -> float:
    return 1 / (1 + math.exp(-value))


def test_by_hand():
    # Log-ratios 4 and 0: the point is their mean.
    policy, reference = at([4.0], ["nothing"])
    total, count = kto(policy, reference, beta=0.5, desirable_weight=3.0, undesirable_weight=2.0)
    assert total.item() == pytest.approx((3 * sigmoid(-1) + 2 * sigmoid(-1)) / 2, abs=1e-15)
    assert count == 1
    # The point is no variable: its own gradient would add to these.
    slope = 0.5 * sigmoid(1) * sigmoid(-1) / 2
    found = [gradient.item() for gradient in gradients(total, policy)]
    assert found == pytest.approx([-3 * slope, 2 * slope], abs=1e-15)


def test_the_point_is_not_below_0():
    policy, reference = at([-4.0], ["nothing"])
    total = kto(policy, reference, beta=0.5).total
    assert total.item() == pytest.approx((sigmoid(2) + sigmoid(0)) / 2, abs=1e-15)


def test_the_point_is_of_the_micro_batch():
    policy, reference = at([8.0, 0.0], ["nothing"] * 2)
    whole = kto(policy, reference, beta=0.5).total
    halves = [slice(0, 1), slice(1, 2)]
    apart = sum(kto(part(policy, rows), part(reference, rows), beta=0.5).total for rows in halves)
    assert (whole - apart).abs() > 0.01
    assert kto.of_micro_batch


@pytest.mark.parametrize(
    ("settings", "line"),
    [
        ({"beta": 0}, r"preference\.beta=0 must be a number above 0"),
        ({"desirable_weight": -1}, r"preference\.desirable_weight=-1 must be a number from 0 on"),
        ({"undesirable_weight": -1}, r"preference\.undesirable_weight=-1 must be a number from 0"),
    ],
)
def test_errors(settings: dict, line: str):
    with pytest.raises(ConfigError, match=line):
        kto(*drawn(["nothing"]), **settings)
