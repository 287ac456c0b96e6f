import math

import pytest
import torch

from plm.model.context import Context
from plm.model.rotary import rotate

POSITIONS = torch.tensor([[0, 1, 5]])


def tables(dim: int, theta: float, wide: torch.dtype = torch.float64):
    return Context(positions=POSITIONS, wide=wide).rotary(dim, theta)


def test_by_hand():
    cos, sin = tables(4, 10_000.0)
    x = torch.tensor([1.0, 0.0, 0.0, 2.0], dtype=torch.float64).expand(1, 3, 4)
    found = rotate(x, (cos, sin))[0]
    for row, place in zip(found.tolist(), (0, 1, 5), strict=True):
        slow = place * 10_000.0**-0.5
        expected = [math.cos(place), math.sin(place), -2 * math.sin(slow), 2 * math.cos(slow)]
        assert row == pytest.approx(expected, abs=1e-12)


def test_a_product_depends_on_the_distance_alone():
    q, k = torch.randn(2, 8, dtype=torch.float64)
    products = []
    for first, second in ((0, 3), (10, 13), (1000, 1003)):
        rotary = Context(positions=torch.tensor([[first, second]]), wide=torch.float64).rotary(
            8, 100.0
        )
        turned = rotate(torch.stack((q, k))[None], rotary)[0]
        products.append((turned[0] @ turned[1]).item())
    assert products == pytest.approx([products[0]] * 3, abs=1e-10)


def test_heads_turn_alike():
    x = torch.randn(1, 3, 2, 6)
    rotary = tables(6, 50.0, torch.float32)
    found = rotate(x, rotary)
    assert torch.equal(found[:, :, 1], rotate(x[:, :, 1], rotary))
    torch.testing.assert_close(found.norm(dim=-1), x.norm(dim=-1))
    assert torch.equal(found[:, 0], x[:, 0])


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32, torch.bfloat16])
def test_dtype_stays(dtype: torch.dtype):
    x = torch.randn(1, 3, 8).to(dtype)
    found = rotate(x, tables(8, 100.0, torch.promote_types(dtype, torch.float32)))
    assert found.dtype == dtype
    expected = rotate(x.double(), tables(8, 100.0))
    torch.testing.assert_close(found.double(), expected, rtol=torch.finfo(dtype).eps, atol=1e-6)
