import pytest
import torch

from plm.advantage.gae import gae
from plm.errors import ConfigError

LENGTHS = [5, 1, 8, 13, 2]
ROLLOUT = torch.arange(5).repeat_interleave(torch.tensor(LENGTHS))


def drawn() -> tuple[torch.Tensor, torch.Tensor]:
    return tuple(torch.randn(2, len(ROLLOUT), dtype=torch.float64))


def by_token(rewards, values, gamma: float, lam: float) -> list[float]:
    """From the last token of each rollout to its first."""
    found = []
    for its, worth in zip(rewards.split(LENGTHS), values.split(LENGTHS), strict=True):
        later, following, backwards = 0.0, 0.0, []
        for at in reversed(range(len(its))):
            delta = its[at].item() + gamma * following - worth[at].item()
            later, following = delta + gamma * lam * later, worth[at].item()
            backwards.append(later)
        found += reversed(backwards)
    return found


@pytest.mark.parametrize(
    ("gamma", "lam"), [(1.0, 0.95), (0.9, 0.8), (1.0, 1.0), (0.99, 0.0), (0, 1)]
)
def test_as_token_by_token(gamma: float, lam: float):
    rewards, values = drawn()
    found, returns = gae(rewards, values, ROLLOUT, gamma=gamma, lam=lam)
    assert found.tolist() == pytest.approx(by_token(rewards, values, gamma, lam), abs=1e-12)
    assert torch.equal(returns, found + values)


def test_whitened_the_returns_stay():
    rewards, values = drawn()
    plain, returns = gae(rewards, values, ROLLOUT, lam=0.9)
    found, same = gae(rewards, values, ROLLOUT, lam=0.9, whiten=True)
    assert torch.equal(returns, same)
    assert float(found.mean()) == pytest.approx(0, abs=1e-12)
    assert float(found.square().mean()) == pytest.approx(1, abs=1e-6)
    apart = plain - plain.mean()
    torch.testing.assert_close(found * apart.square().mean().sqrt(), apart, rtol=1e-6, atol=1e-9)
    # All alike: nothing is better than the rest.
    one = torch.ones(2, dtype=torch.float64)
    alike, _ = gae(one, torch.zeros_like(one), torch.tensor([0, 1]), whiten=True)
    assert alike.tolist() == [0, 0]


def test_with_lambda_1_the_return_is_what_was_earned():
    rewards, values = drawn()
    _, returns = gae(rewards, values, ROLLOUT)
    first = torch.tensor([0, 5, 6, 14, 27])
    earned = [part.sum().item() for part in rewards.split(LENGTHS)]
    assert returns[first].tolist() == pytest.approx(earned, abs=1e-12)


def test_rollouts_do_not_see_each_other():
    rewards, values = drawn()
    before, _ = gae(rewards, values, ROLLOUT, lam=0.9)
    other = torch.where(ROLLOUT == 2, 100.0, rewards)
    after, _ = gae(other, values, ROLLOUT, lam=0.9)
    assert torch.equal(before[ROLLOUT != 2], after[ROLLOUT != 2])
    assert (before != after)[ROLLOUT == 2].all()


def test_right_values_leave_nothing_to_learn():
    _, values = drawn()
    # Each token earns what the values say that it should.
    following = torch.cat([values[1:], torch.zeros(1)])
    last = torch.cat([ROLLOUT[1:] != ROLLOUT[:-1], torch.tensor([True])])
    found, returns = gae(values - following.masked_fill(last, 0), values, ROLLOUT, lam=0.7)
    assert found.abs().max() < 1e-14 and (returns - values).abs().max() < 1e-14


def test_no_tokens():
    nothing = torch.zeros(0)
    found, returns = gae(nothing, nothing, torch.zeros(0, dtype=torch.int64))
    assert found.shape == returns.shape == (0,)


@pytest.mark.parametrize("settings", [{"gamma": 1.1}, {"lam": -0.1}, {"lam": "1"}, {"gamma": True}])
def test_errors(settings: dict):
    with pytest.raises(ConfigError, match=r"advantage\.\w+=.* must be a number from 0 to 1"):
        gae(*drawn(), ROLLOUT, **settings)
