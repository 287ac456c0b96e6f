import math

import pytest
import torch

from plm.errors import ConfigError
from plm.preference.dpo import dpo
from plm.preference.robust import robust
from tests.preference.common import at, drawn, exchanged, gradients


def test_by_hand():
    policy, reference = at([0.0, 2.0], ["nothing"] * 2)
    total, count = robust(policy, reference, beta=0.5, label_smoothing=0.25)
    far = (0.75 * math.log(1 + math.exp(-1)) - 0.25 * math.log(1 + math.exp(1))) / 0.5
    assert total.item() == pytest.approx(math.log(2) + far, abs=1e-15) and count == 2


def test_over_exchanged_pairs_its_mean_is_dpos_over_the_true_ones():
    policy, reference = drawn(["nothing"] * 8)
    share = 0.3
    kept, flipped = (
        robust(*pairs, label_smoothing=share).total
        for pairs in ((policy, reference), (exchanged(policy), exchanged(reference)))
    )
    found = (1 - share) * kept + share * flipped
    true = dpo(policy, reference).total
    assert found.item() == pytest.approx(true.item(), rel=1e-14)
    for mine, its in zip(gradients(found, policy), gradients(true, policy), strict=True):
        torch.testing.assert_close(mine, its, rtol=1e-12, atol=1e-15)


def test_it_never_pulls_back():
    policy, reference = at([1000.0], ["nothing"])
    chosen, _ = gradients(robust(policy, reference, label_smoothing=0.2).total, policy)
    assert chosen.item() == pytest.approx(-0.2 * 0.1 / 0.6, rel=1e-12)


def test_without_a_share_it_is_dpo():
    policy, reference = drawn(["nothing"] * 8)
    assert torch.equal(
        robust(policy, reference, label_smoothing=0.0).total, dpo(policy, reference).total
    )


@pytest.mark.parametrize(
    ("settings", "line"),
    [
        ({"beta": -1.0}, r"preference\.beta=-1\.0 must be a number above 0"),
        (
            {"label_smoothing": 0.6},
            r"preference\.label_smoothing=0\.6 must be from 0 to below 0\.5",
        ),
    ],
)
def test_errors(settings: dict, line: str):
    with pytest.raises(ConfigError, match=line):
        robust(*drawn(["nothing"]), **settings)
