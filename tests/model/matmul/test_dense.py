import torch

from plm.model.matmul.dense import dense


def test_by_hand():
    left = torch.tensor([[1.0, 2.0]])
    assert dense(left, torch.tensor([[3.0], [4.0]]), "scores").tolist() == [[11.0]]
