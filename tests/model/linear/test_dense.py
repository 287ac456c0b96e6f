import torch

from plm.model.linear.dense import dense


def test_by_hand():
    part = dense(2, 3, "up")
    assert part.bias is None and part.weight.shape == (3, 2)
    x = torch.randn(4, 2)
    torch.testing.assert_close(part(x), x @ part.weight.T)
