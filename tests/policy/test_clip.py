from functools import partial

import pytest
import torch

from plm.errors import ConfigError
from plm.kernels.linear_policy_loss import linear_policy_loss
from plm.kernels.reference.linear_logprob import linear_logprob
from plm.policy.clip import clip
from plm.policy.common import Tokens, check
from tests.policy.common import at, gradients, slopes


def test_by_hand():
    ratio, worth = [0.5, 0.9, 1.4, 0.5, 1.1, 1.4], [2.0, 2.0, 2.0, -2.0, -2.0, -2.0]
    tokens = at(ratio, worth)
    loss = partial(clip, clip_low=0.2, clip_high=0.3)
    found = loss(tokens)
    expected = [-1.0, -1.8, -2.6, 1.6, 2.2, 2.8]
    assert found.loss.tolist() == pytest.approx(expected, abs=1e-14)
    assert slopes(loss, tokens) == pytest.approx([-1.0, -1.8, 0, 0, 2.2, 2.8], abs=1e-14)
    assert found.below.tolist() == [False, False, False, True, False, False]
    assert found.above.tolist() == [False, False, True, False, False, False]


def test_the_cap_bounds_what_a_negative_advantage_costs():
    tokens = at([1.4, 1.4, 5.0, 5.0], [1.0, -1.0, 1.0, -1.0])
    loss = partial(clip, cap=2.0)
    assert loss(tokens).loss.tolist() == pytest.approx([-1.2, 1.4, -1.2, 2.0], abs=1e-14)
    assert slopes(loss, tokens) == pytest.approx([0, 1.4, 0, 0], abs=1e-14)
    assert loss(tokens).above.tolist() == [True, False, True, True]
    assert clip(tokens).above.tolist() == [True, False, True, False]


@pytest.mark.parametrize("cap", [1.2, 0.5, "2", float("inf"), False])
def test_a_cap_within_the_bounds_is_refused(cap):
    with pytest.raises(ConfigError, match=r"policy\.cap=.* must be a number above 1 \+ clip_high"):
        check(partial(clip, cap=cap))


@pytest.mark.parametrize("bounds", [(0.2, 0.28), (0.0, 0.1), (1.5, 3.0)])
def test_as_the_fused_kernel(bounds):
    """Of hidden states and head: the same loss, gradients and counts as in one pass."""
    hidden = torch.randn(24, 6, dtype=torch.float64, requires_grad=True)
    weight = torch.randn(11, 6, dtype=torch.float64, requires_grad=True)
    labels = torch.randint(11, (24,))
    logps = linear_logprob(hidden, weight, labels, temperature=0.7).logps
    old = logps.detach() + torch.randn(24, dtype=torch.float64)
    worth, share = torch.randn(2, 24, dtype=torch.float64)
    low, high = bounds
    rollout = torch.zeros(24, dtype=torch.int64)
    tokens = Tokens(logps, torch.ones_like(old), old, worth, rollout, 1)
    mine = clip(tokens, clip_low=low, clip_high=high)
    fused = linear_policy_loss(
        hidden, weight, labels, old_logps=old, advantages=worth, weights=share,
        objective="clip", clip_low=low, clip_high=high, temperature=0.7,
    )  # fmt: skip
    assert mine.below.sum() == fused.clipped_low and mine.above.sum() == fused.clipped_high
    assert mine.below.any() or low >= 1
    value = (share * mine.loss).sum()
    torch.testing.assert_close(value, fused.total, rtol=1e-13, atol=0)
    grads = gradients(value, fused.total, by=(hidden, weight))
    torch.testing.assert_close(*grads, rtol=0, atol=1e-12)
