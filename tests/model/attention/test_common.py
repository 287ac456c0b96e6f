import pytest
import torch

from plm.model.attention import common
from plm.model.attention.common import SoftmaxAttention, step_mask
from tests.model.common import plain_context


def heads(key: int, value: int, length: int = 7):
    q = torch.randn(2, 4, length, key, dtype=torch.float64)
    k = torch.randn(2, 2, length, key, dtype=torch.float64)
    v = torch.randn(2, 2, length, value, dtype=torch.float64)
    return q, k, v


@pytest.mark.parametrize("masked", ["causal", "none", "mask"])
@pytest.mark.parametrize(("key", "value"), [(6, 4), (4, 4), (4, 6)])
def test_both_ways_agree(key: int, value: int, masked: str, monkeypatch):
    # Padding of values, which pays from long windows on, must change nothing either.
    monkeypatch.setattr(common, "PAD_VALUES_FROM", 1)
    mask = torch.rand(2, 1, 7, 7) < 0.5
    mask |= torch.eye(7, dtype=torch.bool)
    settings = {"scale": 0.3, "causal": masked == "causal"}
    found = []
    for kernels in ("auto", "reference"):
        context = plain_context(2, 7)
        context.kernels = kernels
        torch.manual_seed(0)
        found.append(
            SoftmaxAttention()(
                *heads(key, value),
                context=context,
                mask=mask if masked == "mask" else None,
                **settings,
            )
        )
    assert found[0].shape == (2, 4, 7, value)
    torch.testing.assert_close(*found, rtol=1e-12, atol=1e-12)


def test_another_product_is_used():
    roles = []

    def product(left: torch.Tensor, right: torch.Tensor, role: str) -> torch.Tensor:
        roles.append((role, tuple(left.shape), tuple(right.shape)))
        return left @ right

    SoftmaxAttention(product)(*heads(6, 4), scale=1.0, context=plain_context(2, 7))
    assert roles == [
        ("scores", (2, 4, 7, 6), (2, 4, 6, 7)),
        ("values", (2, 4, 7, 7), (2, 4, 7, 4)),
    ]


def test_step_mask():
    assert step_mask(3, 1, 4, torch.device("cpu")) is None
    found = step_mask(2, 2, 4, torch.device("cpu")).int().tolist()
    assert found == [[1, 1, 1, 0], [1, 1, 1, 1]]
