import pytest
import torch

from plm.aggregation.sequence import sequence

LENGTHS = torch.tensor([3, 1, 5])


def test_by_hand():
    found = sequence(LENGTHS, longest=8)
    assert found.tolist() == pytest.approx([1 / 9, 1 / 3, 1 / 15], abs=1e-16)


def test_what_a_loss_of_1_a_token_adds_up_to():
    assert (sequence(LENGTHS, longest=8) * LENGTHS).sum().item() == pytest.approx(1, abs=1e-15)
