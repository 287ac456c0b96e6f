from functools import partial

import pytest
import torch

from plm.errors import ConfigError
from plm.kernels.linear_policy_loss import linear_policy_loss
from plm.kernels.reference.linear_logprob import linear_logprob
from plm.policy.cispo import cispo
from plm.policy.common import Tokens
from tests.policy.common import at, gradients, slopes


def test_by_hand():
    tokens = at([0.5, 1.1, 4.0, 0.5, 4.0, 4.0], [2.0, 2.0, 2.0, -2.0, -2.0, 0.0])
    loss = partial(cispo, clip_low=0.2, clip_high=1.0)
    held = [0.8, 1.1, 2.0, 0.8, 2.0, 2.0]
    expected = [-r * a for r, a in zip(held, tokens.advantages.tolist(), strict=True)]
    assert slopes(loss, tokens) == pytest.approx(expected, abs=1e-14)
    found = loss(tokens)
    values = [e * lp for e, lp in zip(expected, tokens.logps.tolist(), strict=True)]
    assert found.loss.tolist() == pytest.approx(values, abs=1e-13)
    assert found.below.tolist() == [True, False, False, True, False, False]
    assert found.above.tolist() == [False, False, True, False, True, False]


def test_the_default_is_an_upper_bound_of_5_and_no_lower_one():
    tokens = at([1e-6, 4.9, 5.5, 50.0], [1.0] * 4)
    assert slopes(cispo, tokens) == pytest.approx([-1e-6, -4.9, -5.0, -5.0], abs=1e-13)
    assert not cispo(tokens).below.any()


def test_as_the_fused_kernel():
    hidden = torch.randn(24, 6, dtype=torch.float64, requires_grad=True)
    weight = torch.randn(11, 6, dtype=torch.float64, requires_grad=True)
    labels = torch.randint(11, (24,))
    logps = linear_logprob(hidden, weight, labels, temperature=1.3).logps
    old = logps.detach() + torch.randn(24, dtype=torch.float64)
    worth, share = torch.randn(2, 24, dtype=torch.float64)
    rollout = torch.zeros(24, dtype=torch.int64)
    mine = cispo(
        Tokens(logps, torch.ones_like(old), old, worth, rollout, 1), clip_low=0.3, clip_high=0.5
    )
    fused = linear_policy_loss(
        hidden, weight, labels, old_logps=old, advantages=worth, weights=share,
        objective="cispo", clip_low=0.3, clip_high=0.5, temperature=1.3,
    )  # fmt: skip
    assert mine.below.sum() == fused.clipped_low > 0
    assert mine.above.sum() == fused.clipped_high > 0
    value = (share * mine.loss).sum()
    torch.testing.assert_close(value, fused.total, rtol=1e-13, atol=0)
    grads = gradients(value, fused.total, by=(hidden, weight))
    torch.testing.assert_close(*grads, rtol=0, atol=1e-12)


def test_errors():
    with pytest.raises(ConfigError, match=r"policy\.clip_high=-1 must be a number from 0 on"):
        cispo(at([1.0], [1.0]), clip_high=-1)
