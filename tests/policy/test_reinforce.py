import torch

from plm.policy.reinforce import reinforce
from tests.policy.common import at, gradients, made, slopes


def test_by_hand():
    tokens = at([0.1, 1.0, 9.0], [2.0, -1.0, 0.5])
    assert slopes(reinforce, tokens) == [-2, 1, -0.5]
    assert torch.equal(reinforce(tokens).loss, -tokens.advantages * tokens.logps)


def test_the_old_policy_is_not_read():
    tokens = made([3, 2]).tokens
    found = reinforce(tokens._replace(old_logps=torch.full_like(tokens.old_logps, torch.nan)))
    assert torch.equal(found.loss, reinforce(tokens).loss)
    assert not found.below.any() and not found.above.any()


def test_the_mean_gradient_is_that_of_the_expected_reward():
    """Over all tokens of a softmax, weighted with their probability."""
    logits = torch.randn(7, dtype=torch.float64, requires_grad=True)
    rewards = torch.randn(7, dtype=torch.float64)
    logps = logits.log_softmax(0)
    tokens = at([1.0] * 7, rewards.tolist())._replace(logps=logps)
    mine = (logps.detach().exp() * reinforce(tokens).loss).sum()
    expected = -(logps.exp() * rewards).sum()
    grads = gradients(mine, expected, by=logits)
    torch.testing.assert_close(*grads, rtol=0, atol=1e-15)
