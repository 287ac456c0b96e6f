import pytest
import torch

from plm.aggregation.sequence_sum import sequence_sum

LENGTHS = torch.tensor([3, 1, 5])


def test_by_hand():
    found = sequence_sum(LENGTHS, longest=8)
    assert found.tolist() == pytest.approx([1 / 3] * 3, abs=1e-16)


def test_what_a_loss_of_1_a_token_adds_up_to():
    assert (sequence_sum(LENGTHS, longest=8) * LENGTHS).sum().item() == pytest.approx(3, abs=1e-15)
