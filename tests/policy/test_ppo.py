from functools import partial

import pytest
import torch

from plm.errors import ConfigError
from plm.policy.clip import clip
from plm.policy.ppo import ppo, value_loss
from tests.policy.common import gradients, made, slopes


def written_out(tokens, low: float, high: float, dual: float):
    """The dual clip as its paper has it: by the sign of the advantage."""
    ratio, worth = (tokens.logps - tokens.old_logps).exp(), tokens.advantages
    once = torch.minimum(ratio * worth, ratio.clamp(1 - low, 1 + high) * worth)
    return -torch.where(worth < 0, torch.maximum(once, dual * worth), once)


def test_as_written_out():
    drawn = made([30, 30, 40], moved=1.0)
    tokens = drawn.tokens._replace(advantages=torch.randn(100, dtype=torch.float64))
    found = ppo(tokens, clip_low=0.2, clip_high=0.3, dual_clip=2.0)
    expected = written_out(tokens, 0.2, 0.3, 2.0)
    torch.testing.assert_close(found.loss, expected, rtol=0, atol=1e-14)
    grads = gradients(found.loss.sum(), expected.sum(), by=drawn.logits)
    torch.testing.assert_close(*grads, rtol=0, atol=1e-14)
    ratio = (tokens.logps - tokens.old_logps).exp()
    cut = (ratio > 2) & (tokens.advantages < 0)
    assert cut.any() and found.above[cut].all() and not grads[0][0][cut].any()


def test_without_the_second_clip():
    tokens = made([20], moved=1.0).tokens
    once = partial(ppo, dual_clip=None)
    assert torch.equal(once(tokens).loss, clip(tokens).loss)
    assert slopes(once, tokens) == slopes(clip, tokens)


@pytest.mark.parametrize("dual", [1.2, 0, "3"])
def test_a_second_clip_within_the_first_is_refused(dual):
    line = r"policy\.dual_clip=.* must be a number above 1 \+ clip_high = 1\.2, or null"
    with pytest.raises(ConfigError, match=line):
        ppo(made([1]).tokens, dual_clip=dual)


def test_values_by_hand():
    values = torch.tensor([1.0, 0.1, 1.0, -1.0, 3.0], dtype=torch.float64, requires_grad=True)
    old, returns = torch.zeros_like(values), torch.tensor([2.0, 2.0, 0.5, 2.0, 1.0]).double()
    found = value_loss(values, old, returns, 0.2)
    # Moved too far towards the return, within, too far beyond it, away, beyond and far out.
    expected = [1.8**2 / 2, 1.9**2 / 2, 0.5**2 / 2, 9 / 2, 4 / 2]
    assert found.tolist() == pytest.approx(expected, abs=1e-15)
    (grad,) = torch.autograd.grad(found.sum(), values)
    assert grad.tolist() == pytest.approx([0, -1.9, 0.5, -3, 2], abs=1e-15)


def test_values_without_a_clip():
    values = torch.tensor([1.0, 3.0])
    assert value_loss(values, values + 9, torch.zeros(2), None).tolist() == [0.5, 4.5]


@pytest.mark.parametrize("clip_at", [0, -0.1, "0.2", True])
def test_values_errors(clip_at):
    with pytest.raises(ConfigError, match=r"value\.clip=.* must be a number above 0"):
        value_loss(torch.ones(1), torch.ones(1), torch.ones(1), clip_at)
