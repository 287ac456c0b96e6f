import torch

from plm.policy.none import none
from tests.policy.common import made, slopes


def test_nothing_is_learnt_from_any_reward():
    tokens = made([3, 2], advantages=torch.tensor([1.0, -1.0])).tokens
    assert slopes(none, tokens) == [0] * 5 and none(tokens).loss.tolist() == [0] * 5
