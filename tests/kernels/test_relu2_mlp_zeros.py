"""The experiment of docs/sparsity.md: products that skip the zeros of relu(x @ up.T)."""

import pytest
import torch
from torch import Tensor

from plm.kernels.relu2_mlp_configs import KERNELS
from plm.kernels.tiles import Tile, override
from tests.kernels.interpreter import guarded, poisoned

D, F, EDGE = 48, 80, 16
SHAPES = {"none": 0.0, "half": 0.5, "all": 1.0}


def sparse(rows: int, share: float, place: str) -> tuple[Tensor, ...]:
    """x, up, down and gradient such that a share of the squares of r is zero."""
    x, up = torch.randn(rows, D), torch.randn(F, D)
    # Whole squares: rows of x and of up agree in the sign of one column that outweighs the rest.
    signs = [torch.where(torch.rand(-(-n // EDGE)) < share, -1.0, 1.0) for n in (rows, F)]
    x[:, 0], up[:, 0] = 50.0, signs[1].repeat_interleave(EDGE)[:F]
    x[:, 1], up[:, 1] = 200 * (signs[0].repeat_interleave(EDGE)[:rows] - 1), 1.0
    if share == 1.0:
        up[:, 0] = -1.0
    down, grad = torch.randn(D, F), torch.randn(rows, D)
    return tuple(guarded(t.to(place)) for t in (x, up, down, grad))


@pytest.mark.parametrize("share", SHAPES.values(), ids=SHAPES)
@pytest.mark.parametrize("rows", [1, 63])
def test_skipping_changes_no_bit(rows: int, share: float, place: str):
    from plm.kernels import relu2_mlp_triton as kernels

    x, up, down, grad = sparse(rows, share, place)
    edge = kernels.zero_edge()
    # The same blocks in all, so that nothing but zeros is left out of a sum.
    tile = Tile({"BLOCK_M": edge, "BLOCK_N": 2 * edge, "BLOCK_K": edge, "BLOCK_GROUP": 2})
    with override(**{kernel.name: tile for kernel in KERNELS}), poisoned():
        flags = kernels.new_flags(rows, F, x.device)
        r = kernels.relu_up(x, up, flags)
        got = [
            r,
            kernels.square_down(r, down, flags),
            kernels.slope(grad, down, r, flags),
            kernels.square_weight(grad, r, flags),
        ]
        whole = [
            kernels.relu_up(x, up),
            kernels.square_down(r, down),
            kernels.slope(grad, down, r),
            kernels.square_weight(grad, r),
        ]
    truth = [
        [bool(square.count_nonzero()) for square in band.split(edge, 1)] for band in r.split(edge)
    ]
    assert flags.bool().tolist() == truth
    for a, b in zip(got, whole, strict=True):
        assert torch.equal(a, b)


def test_what_is_zero_is_not_visited(place: str):
    from plm.kernels import relu2_mlp_triton as kernels

    edge = kernels.zero_edge()
    rows = 2 * edge
    r, down = torch.ones(rows, F, device=place), torch.ones(D, F, device=place)
    flags = torch.ones_like(kernels.new_flags(rows, F, r.device))
    # Flags that lie show which blocks are visited.
    flags[0, 1:] = 0
    y = kernels.square_down(r, down, flags)
    assert y[0, 0] == edge and y[-1, 0] == F
    for value in (0, 1):
        everywhere = torch.full_like(flags, value)
        assert kernels.slope(y, down, r, everywhere).count_nonzero() == value * r.numel()
    weight = kernels.square_weight(torch.ones(rows, D, device=place), r, flags)
    assert weight[0, 0] == rows and weight[0, -1] == edge


def test_nan_is_no_zero(place: str):
    from plm.kernels import relu2_mlp_triton as kernels

    x, up, *_ = sparse(5, 1.0, place)
    x[2, 3] = float("nan")
    flags = kernels.new_flags(5, F, x.device)
    kernels.relu_up(x, up, flags)
    assert flags.all()


def test_the_order_of_what_is_worth_a_visit():
    from plm.kernels.relu2_mlp_triton import worth

    found = worth(torch.tensor([[0, 1, 0, 1], [0, 0, 0, 0], [1, 1, 1, 1]], dtype=torch.int8))
    assert found["counts"].tolist() == [2, 0, 4]
    assert found["order"][0, :2].tolist() == [1, 3]
    assert found["order"][2].tolist() == [0, 1, 2, 3]
    assert {t.dtype for t in found.values()} == {torch.int32}
