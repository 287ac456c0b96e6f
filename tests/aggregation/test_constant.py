import pytest
import torch

from plm.aggregation.constant import constant

LENGTHS = torch.tensor([3, 1, 5])


def test_by_hand():
    found = constant(LENGTHS, longest=8)
    assert found.tolist() == pytest.approx([1 / 24] * 3, abs=1e-16)


def test_what_a_loss_of_1_a_token_adds_up_to():
    assert (constant(LENGTHS, longest=8) * LENGTHS).sum().item() == pytest.approx(9 / 24, abs=1e-15)


def test_no_length_but_the_longest_matters():
    found = constant(torch.tensor([8, 8, 8]), longest=8)
    assert torch.equal(found, constant(LENGTHS, longest=8))
    assert torch.equal(found, 2 * constant(LENGTHS, longest=16))
