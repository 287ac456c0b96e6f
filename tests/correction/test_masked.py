import pytest
import torch

from plm.correction.masked import masked
from plm.errors import ConfigError

RATIO = torch.tensor([0.3, 1.0, 5.0, 1.5, 1.6], dtype=torch.float64)
OLD, SAMPLER, ROLLOUT = RATIO.log() - 3, torch.full_like(RATIO, -3), torch.tensor([0, 0, 1, 2, 2])


def test_tokens():
    found = masked(OLD, SAMPLER, ROLLOUT, 3, low=0.5, high=2.0, level="token")
    assert found.tolist() == pytest.approx([0, 1, 0, 1.5, 1.6], abs=1e-14)


def test_rollouts():
    found = masked(OLD, SAMPLER, ROLLOUT, 3, low=0.2, high=2.5)
    assert found.tolist() == pytest.approx([0.3, 0.3, 0, 2.4, 2.4], abs=1e-14)
    assert masked(OLD, SAMPLER, ROLLOUT, 3, low=0.5, high=2.0).tolist() == [0] * 5


def test_without_an_upper_bound():
    found = masked(OLD, SAMPLER, ROLLOUT, 3, low=0.5, high=None, level="token")
    assert found.tolist() == pytest.approx([0, 1, 5, 1.5, 1.6], abs=1e-14)


def test_the_ends_are_in_the_band():
    same = torch.zeros(2)
    assert masked(same, same, ROLLOUT[:2], 1, low=1, high=1).tolist() == [1, 1]


def test_errors():
    with pytest.raises(ConfigError, match=r"correction\.high=nan must be a number from 0 on"):
        masked(OLD, SAMPLER, ROLLOUT, 3, high=float("nan"))
