import pytest
import torch

from plm.correction.truncated import truncated
from plm.errors import ConfigError

RATIO = torch.tensor([0.3, 1.0, 5.0, 1.5, 1.6], dtype=torch.float64)
OLD, SAMPLER, ROLLOUT = RATIO.log() - 3, torch.full_like(RATIO, -3), torch.tensor([0, 0, 1, 2, 2])


def test_tokens():
    found = truncated(OLD, SAMPLER, ROLLOUT, 3, low=0.5, high=2.0)
    assert found.tolist() == pytest.approx([0.5, 1, 2, 1.5, 1.6], abs=1e-15)


def test_rollouts():
    found = truncated(OLD, SAMPLER, ROLLOUT, 3, low=0.5, high=2.0, level="sequence")
    assert found.tolist() == pytest.approx([0.5, 0.5, 2, 2, 2], abs=1e-15)


def test_without_an_upper_bound():
    found = truncated(OLD, SAMPLER, ROLLOUT, 3, high=None)
    torch.testing.assert_close(found, RATIO, rtol=1e-14, atol=0)


def test_errors():
    with pytest.raises(ConfigError, match=r"correction\.level=None must be one of"):
        truncated(OLD, SAMPLER, ROLLOUT, 3, level=None)
