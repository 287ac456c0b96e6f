import pytest

from plm.errors import ConfigError
from plm.preference.ipo import ipo
from tests.preference.common import at, drawn, gradients


def test_by_hand_and_it_pulls_back_beyond_its_distance():
    policy, reference = at([0.0, 2.5, 4.0], ["nothing"] * 3)
    total, count = ipo(policy, reference, beta=0.2)
    assert total.item() == pytest.approx(2.5**2 + 1.5**2, abs=1e-14) and count == 3
    chosen, rejected = gradients(total, policy)
    assert chosen.tolist() == pytest.approx([-5, 0, 3], abs=1e-14)
    assert rejected.tolist() == (-chosen).tolist()


def test_length_normalised_by_hand():
    policy, reference = at([6.0], ["nothing"])
    lengths = policy.chosen_tokens * 3
    policy = policy._replace(chosen_tokens=lengths)
    found = ipo(policy, reference._replace(chosen_tokens=lengths), beta=1.0, length_normalised=True)
    assert found.total.item() == pytest.approx((6 / 3 - 1 / 2) ** 2, abs=1e-14)


@pytest.mark.parametrize(
    ("settings", "line"),
    [
        ({"beta": 0.0}, r"preference\.beta=0\.0 must be a number above 0"),
        (
            {"length_normalised": "yes"},
            r"preference\.length_normalised='yes' must be true or false",
        ),
    ],
)
def test_errors(settings: dict, line: str):
    with pytest.raises(ConfigError, match=line):
        ipo(*drawn(["nothing"]), **settings)
