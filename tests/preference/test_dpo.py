import math

import pytest
import torch

from plm.errors import ConfigError
from plm.preference.dpo import dpo
from tests.preference.common import at, drawn, exchanged, gradients


def test_by_hand():
    policy, reference = at([0.0, 2.0], ["nothing"] * 2)
    total, count = dpo(policy, reference, beta=0.5)
    assert total.item() == pytest.approx(math.log(2) + math.log(1 + math.exp(-1)), abs=1e-15)
    assert count == 2 and total.dtype == torch.float64
    chosen, rejected = gradients(total, policy)
    pull = [-0.5 / 2, -0.5 / (1 + math.exp(1))]
    assert chosen.tolist() == pytest.approx(pull, abs=1e-15)
    assert torch.equal(rejected, -chosen)


def test_it_pushes_on_however_far_apart_they_are():
    policy, reference = at([50.0], ["nothing"])
    chosen, _ = gradients(dpo(policy, reference, beta=1.0).total, policy)
    assert -1e-20 < chosen.item() < 0


def test_smoothed_labels_rest_at_their_own_odds():
    rest = math.log(0.8 / 0.2) / 0.1
    policy, reference = at([rest - 1, rest, rest + 1], ["nothing"] * 3)
    chosen, _ = gradients(dpo(policy, reference, label_smoothing=0.2).total, policy)
    assert chosen[0] < 0 < chosen[2] and chosen[1].abs() < 1e-16


def test_smoothing_is_the_mean_over_exchanged_pairs():
    policy, reference = drawn(["nothing"] * 8)
    mixed = dpo(policy, reference, label_smoothing=0.3).total
    kept, flipped = dpo(policy, reference), dpo(exchanged(policy), exchanged(reference))
    assert mixed.item() == pytest.approx(0.7 * kept.total.item() + 0.3 * flipped.total.item())


def test_length_normalised_divides_each_log_ratio():
    policy, reference = drawn(["nothing"] * 5)
    apart = [
        logps._replace(
            chosen=logps.chosen / logps.chosen_tokens,
            rejected=logps.rejected / logps.rejected_tokens,
        )
        for logps in (policy, reference)
    ]
    found = dpo(policy, reference, beta=2.0, length_normalised=True).total
    assert found.item() == pytest.approx(dpo(*apart, beta=2.0).total.item(), rel=1e-14)
    assert found.item() != pytest.approx(dpo(policy, reference, beta=2.0).total.item(), rel=1e-2)


@pytest.mark.parametrize(
    ("settings", "line"),
    [
        ({"beta": 0}, r"preference\.beta=0 must be a number above 0, for example 0\.1"),
        (
            {"label_smoothing": 0.5},
            r"preference\.label_smoothing=0\.5 must be from 0 to below 0\.5",
        ),
        (
            {"label_smoothing": -0.1},
            r"label_smoothing=-0\.1 must be .*exchange chosen and rejected",
        ),
        ({"length_normalised": 1}, r"preference\.length_normalised=1 must be true or false"),
    ],
)
def test_errors(settings: dict, line: str):
    with pytest.raises(ConfigError, match=line):
        dpo(*drawn(["nothing"]), **settings)
