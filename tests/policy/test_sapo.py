import math
from functools import partial

import pytest

from plm.errors import ConfigError
from plm.policy.sapo import sapo
from tests.policy.common import at, slopes


def test_by_hand():
    tokens = at([1.0, 1.0, 2.0, 2.0], [1.0, -1.0, 1.0, -1.0])
    loss = partial(sapo, positive=1.0, negative=2.0)
    gate = [1 / (1 + math.exp(-x)) for x in (0, 0, 1, 2)]
    values = [-4 * gate[0], 2 * gate[1], -4 * gate[2], 2 * gate[3]]
    assert loss(tokens).loss.tolist() == pytest.approx(values, abs=1e-14)
    # By lp: 4·r·σ·(1 − σ), whatever τ is in front.
    slope = [4 * r * g * (1 - g) for r, g in zip((1, 1, 2, 2), gate, strict=True)]
    expected = [-slope[0], slope[1], -slope[2], slope[3]]
    assert slopes(loss, tokens) == pytest.approx(expected, abs=1e-14)


def test_the_temperature_is_exact_in_fp64():
    found = sapo(at([3.0], [-1.0]), negative=1.05).loss.item()
    assert found == pytest.approx(4 / 1.05 / (1 + math.exp(-2.1)), abs=1e-14)


def test_the_gradient_fades_on_both_sides():
    near, far = (abs(slopes(sapo, at([r], [1.0]))[0]) / r for r in (1.5, 9.0))
    below = abs(slopes(sapo, at([0.1], [1.0]))[0]) / 0.1
    assert 0 < far < 0.01 < near < 1 and below < 1


@pytest.mark.parametrize("tau", [0, -1.0, "1", float("inf")])
def test_errors(tau):
    with pytest.raises(ConfigError, match=r"policy\.negative=.* must be a number above 0"):
        sapo(at([1.0], [1.0]), negative=tau)
