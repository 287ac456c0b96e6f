import pytest
import torch

from plm.errors import ConfigError
from plm.kernels.reference.rope import rope as plain
from plm.kernels.rope import rope
from plm.kernels.tiles import Tile, override
from plm.model.rotary import rotate
from tests.kernels.interpreter import guarded, poisoned
from tests.kernels.nearness import assert_near


def tables(batch: int, length: int, size: int, device: str = "cpu") -> list[torch.Tensor]:
    angle = torch.rand(batch, length, size // 2) * 100
    return [guarded(table.to(device)) for table in (angle.cos(), angle.sin())]


def case(shape: tuple, dtype: torch.dtype, device: str = "cpu") -> list[torch.Tensor]:
    """x, cosine, sine, incoming gradient."""
    made = [guarded(torch.randn(shape).to(device, dtype)) for _ in range(2)]
    return [made[0], *tables(*shape[:2], shape[-1], device), made[1]]


def outcome(function, x, cos, sin, grad, **settings):
    x = x.detach().clone().requires_grad_()
    out = function(x, cos, sin, **settings)
    out.backward(grad)
    return out.detach(), x.grad


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
@pytest.mark.parametrize(
    "shape", [(1, 1, 1, 2), (2, 13, 5, 32), (2, 17, 64), (1, 9, 3, 6), (0, 4, 2, 8), (3, 7, 1, 16)]
)
def test_triton_is_near_fp64(shape: tuple, dtype: torch.dtype, place: str):
    data = case(shape, dtype, place)
    with poisoned():
        got = outcome(rope, *data, form="triton")
    expected = outcome(plain, *(value.double() for value in data))
    for a, b in zip(got, expected, strict=True):
        assert a.dtype == dtype and a.is_contiguous()
        assert_near(a, b)


def test_triton_reads_a_slice_where_it_lies(place: str):
    _, cos, sin, grad = case((2, 9, 3, 16), torch.float32, place)
    wide = guarded(torch.randn(2, 9, 3, 40).to(place))
    found = []
    for function, settings in ((rope, {"form": "triton"}), (plain, {})):
        x = wide.clone().requires_grad_()
        out = function(x[..., 24:], cos, sin, **settings)
        out.backward(grad)
        found.append((out.detach(), x.grad))
    for a, b in zip(*found, strict=True):
        assert_near(a, b.double())
    assert torch.equal(found[0][1][..., :24], torch.zeros_like(wide[..., :24]))


def test_turning_back_undoes_it(place: str):
    x, cos, sin, _ = case((2, 9, 3, 16), torch.float32, place)
    turned = rope(x, cos, sin, form="triton")
    _, back = outcome(rope, x, cos, sin, turned, form="triton")
    torch.testing.assert_close(back, x)
    assert (turned - x).abs().max() > 1


def test_torch_has_the_bits_of_the_models_rotation():
    x, cos, sin, grad = case((2, 9, 3, 16), torch.bfloat16)
    expected = outcome(lambda x, *pair: rotate(x, pair), x, cos, sin, grad)
    for a, b in zip(outcome(rope, x, cos, sin, grad), expected, strict=True):
        assert torch.equal(a, b)


def test_triton_gives_the_same_bits_in_any_tile(place: str):
    data = case((2, 13, 5, 32), torch.float32, place)
    first = outcome(rope, *data, form="triton")
    with override(rope=Tile({"BLOCK_T": 8, "BLOCK_H": 8})):
        other = outcome(rope, *data, form="triton")
    for a, b in zip(first, other, strict=True):
        assert torch.equal(a, b)


def test_triton_refuses_a_second_derivative(place: str):
    x, cos, sin, _ = case((1, 3, 8), torch.float32, place)
    x.requires_grad_()
    out = rope(x, cos, sin, form="triton")
    (first,) = torch.autograd.grad(out.square().sum(), x, create_graph=True)
    with pytest.raises(RuntimeError, match="rope_backward"):
        torch.autograd.grad(first.sum(), x)


def test_the_torch_form_is_twice_differentiable():
    x, cos, sin, _ = case((1, 3, 2, 4), torch.float64)
    inputs = [value.double().requires_grad_() for value in (x, cos, sin)]
    assert torch.autograd.gradgradcheck(rope, inputs)


def test_opcheck_and_one_graph(place: str):
    x, cos, sin, grad = case((1, 3, 2, 8), torch.float32, place)
    torch.library.opcheck(torch.ops.plm.rope.default, (x.requires_grad_(), cos, sin))
    torch.library.opcheck(torch.ops.plm.rope_backward.default, (grad, cos, sin, True))
    if place == "cpu":
        torch.library.opcheck(torch.ops.plm.rope.default, (x, cos, sin, False))
    compiled = torch.compile(rope, fullgraph=True, backend="aot_eager")
    got = outcome(compiled, x, cos, sin, grad, form="triton")
    for a, b in zip(got, outcome(rope, x, cos, sin, grad, form="triton"), strict=True):
        assert torch.equal(a, b)


HALF = torch.ones(2, 3, 4)


@pytest.mark.parametrize(
    ("x", "cos", "message"),
    [
        (torch.ones(2, 3, 7), HALF, "x has rows of 7; an even number can be turned"),
        (torch.ones(2, 3, 8).double(), HALF, "x is torch.float64; the Triton kernel takes"),
        (torch.ones(2, 3, 8), HALF.double(), "cos is torch.float64; the Triton kernel takes"),
        (torch.ones(2, 3, 8), HALF[:1], r"cos has shape \(1, 3, 4\), not \(2, 3, 4\)"),
        (torch.ones(2, 3, 8), torch.ones(2, 3, 8)[..., :4], "cos is not contiguous"),
        (torch.ones(2, 3, 8), HALF.clone().requires_grad_(), "cos requires a gradient, which"),
        (torch.ones(3, 2, 8).transpose(0, 1), HALF, r"more than one stride \(\(8, 16, 1\)\)"),
        (torch.ones(2, 3, 512), torch.ones(2, 3, 256), "x has rows of 512; .* takes 1 to 256"),
    ],
)
def test_says_what_it_does_not_take(x, cos, message: str):
    sin = torch.ones(x.shape[0], x.shape[1], x.shape[-1] // 2)
    with pytest.raises(ConfigError, match=f"rope: .*{message}"):
        rope(x, cos, sin, form="triton")
