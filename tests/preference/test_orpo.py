import math

import pytest
import torch

from plm.errors import ConfigError
from plm.preference.orpo import orpo
from tests.preference.common import drawn, gradients


def likely(chosen: float, rejected: float, dtype: torch.dtype = torch.float64):
    """One part whose answers have these probabilities a token, and four and two tokens."""
    policy, _ = drawn(["nothing"])
    return policy._replace(
        chosen=torch.tensor([4 * math.log(chosen)], dtype=dtype, requires_grad=True),
        rejected=torch.tensor([2 * math.log(rejected)], dtype=dtype, requires_grad=True),
        chosen_tokens=torch.tensor([4]),
        rejected_tokens=torch.tensor([2]),
    )


def test_by_hand():
    # Odds of 3 and of 1 / 4.
    total, count = orpo(likely(0.75, 0.2), odds_weight=0.5)
    assert total.item() == pytest.approx(-math.log(0.75) + 0.5 * math.log(1 + 1 / 12), abs=1e-14)
    assert count == 1


def test_without_the_odds_only_the_better_answer_is_learnt():
    policy = likely(0.75, 0.2)
    total = orpo(policy, odds_weight=0).total
    assert total.item() == pytest.approx(-math.log(0.75), abs=1e-15)
    assert [g.item() for g in gradients(total, policy)] == [-1 / 4, 0]


@pytest.mark.parametrize("probabilities", [(1.0, 0.5), (0.5, 1.0), (1.0, 1.0), (1e-30, 1.0)])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_a_certain_answer_gives_finite_numbers(probabilities, dtype):
    policy = likely(*probabilities, dtype)
    total = orpo(policy).total
    assert all(g.isfinite() for g in (total, *gradients(total, policy)))


def test_errors():
    with pytest.raises(ConfigError, match=r"preference\.odds_weight=-1 must be a number from 0 on"):
        orpo(drawn(["nothing"])[0], odds_weight=-1)
