import pytest
import torch

from plm.advantage.common import Scored
from plm.advantage.leave_one_out import leave_one_out
from tests.policy.common import scored


def test_each_is_compared_with_the_others():
    rewards = torch.rand(4, 5, dtype=torch.float64)
    found = leave_one_out(scored(rewards.view(-1, 1).tolist(), 5, [1.0])).view(4, 5)
    for at in range(5):
        others = (rewards.sum(1) - rewards[:, at]) / 4
        expected = (rewards[:, at] - others).tolist()
        assert found[:, at].tolist() == pytest.approx(expected, abs=1e-15)


def test_groups_of_several_sizes():
    rewards = torch.tensor([[1.0], [0.5], [0.0], [1.0], [1.0]], dtype=torch.float64)
    groups = torch.tensor([0, 1, 1, 2, 2])
    found = leave_one_out(Scored(rewards, torch.ones(1, dtype=torch.float64), groups))
    assert found.tolist() == [0, 0.5, -0.5, 0, 0]
