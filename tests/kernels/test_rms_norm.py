import pytest
import torch

from plm.errors import ConfigError
from plm.kernels import reference, rms_norm
from plm.kernels.tiles import Tile, override
from tests.kernels.interpreter import guarded, poisoned
from tests.kernels.nearness import assert_near

EPS = 1e-6


def outcome(function, x, weight, grad):
    x, weight = x.clone().requires_grad_(), weight.clone().requires_grad_()
    out = function(x, weight, EPS)
    out.backward(grad)
    return out.detach(), x.grad, weight.grad


@pytest.mark.parametrize("shape", [(63, 100), (2, 5, 33), (1, 1), (0, 8)])
@pytest.mark.parametrize(("dtype", "tolerance"), [(torch.float64, 1e-12), (torch.float32, 1e-5)])
def test_equals_the_reference(shape: tuple, dtype: torch.dtype, tolerance: float):
    data = torch.randn(shape), torch.randn(shape[-1]), torch.randn(shape)
    got = outcome(rms_norm, *(value.to(dtype) for value in data))
    # In fp64, so that only our rounding counts.
    expected = outcome(reference.rms_norm, *(value.to(dtype).double() for value in data))
    for a, b in zip(got, expected, strict=True):
        assert a.dtype == dtype and a.shape == b.shape
        torch.testing.assert_close(a.double(), b, rtol=tolerance, atol=tolerance)


def test_bf16_is_rounded_once():
    x, weight = torch.randn(20, 64).bfloat16(), torch.rand(64) + 0.5
    got = outcome(rms_norm, x, weight, torch.ones_like(x))
    expected = reference.rms_norm(x.double(), weight.double(), EPS)
    # Half a unit in bf16's last place, and fp32's error on top; two roundings would pass it.
    assert ((got[0].double() - expected).abs() <= expected.abs() * (2**-8 + 1e-5)).all()
    assert [value.dtype for value in got] == [torch.bfloat16, torch.bfloat16, torch.float32]


def test_a_slice_of_a_wider_tensor():
    wide = torch.randn(4, 6, 20, dtype=torch.float64)
    weight, grad = torch.randn(12).double(), torch.randn(4, 6, 12).double()
    grads = []
    for function in (rms_norm, reference.rms_norm):
        x = wide.clone().requires_grad_()
        function(x[..., 3:15], weight, EPS).backward(grad)
        grads.append(x.grad)
    torch.testing.assert_close(*grads, rtol=1e-12, atol=1e-12)


def test_a_row_of_zeros_stays_finite():
    got = outcome(rms_norm, torch.zeros(2, 8), torch.ones(8), torch.ones(2, 8))
    assert all(torch.isfinite(value).all() for value in got)


def test_gradcheck():
    inputs = [torch.randn(s, dtype=torch.float64, requires_grad=True) for s in ((5, 7), (7,))]
    assert torch.autograd.gradcheck(lambda x, w: rms_norm(x, w, EPS), inputs)
    assert torch.autograd.gradgradcheck(lambda x, w: reference.rms_norm(x, w, EPS), inputs)


def test_a_second_derivative_is_refused_rather_than_wrong():
    x = torch.randn(5, 7, requires_grad=True)
    (first,) = torch.autograd.grad(rms_norm(x, torch.ones(7), EPS).sum(), x, create_graph=True)
    with pytest.raises(RuntimeError, match="rms_norm_backward"):
        torch.autograd.grad(first.sum(), x)


def test_opcheck_and_one_graph():
    x, weight = torch.randn(3, 8, requires_grad=True), torch.randn(8, requires_grad=True)
    torch.library.opcheck(torch.ops.plm.rms_norm.default, (x, weight, EPS))
    compiled = torch.compile(rms_norm, fullgraph=True, backend="aot_eager")
    torch.testing.assert_close(compiled(x, weight, EPS), rms_norm(x, weight, EPS))


def case(rows: int, size: int, dtype: torch.dtype, place: str) -> list[torch.Tensor]:
    """x, weight, incoming gradient."""
    shapes = (rows, size), (size,), (rows, size)
    return [guarded(torch.randn(shape).to(place, dtype)) for shape in shapes]


def by_triton(x, weight, eps):
    return rms_norm(x, weight, eps, form="triton")


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
@pytest.mark.parametrize("shape", [(1, 5), (7, 63), (5, 100), (11, 64), (3, 257), (0, 8)])
def test_triton_is_near_fp64(shape: tuple, dtype: torch.dtype, place: str):
    data = case(*shape, dtype, place)
    with poisoned():
        got = outcome(by_triton, *data)
    expected = outcome(reference.rms_norm, *(value.double() for value in data))
    for a, b in zip(got, expected, strict=True):
        assert a.dtype == dtype
        assert_near(a, b)


def test_triton_takes_weights_of_another_dtype(place: str):
    x, weight, grad = case(7, 100, torch.bfloat16, place)
    weight = weight.float()
    got = outcome(by_triton, x, weight, grad)
    expected = outcome(reference.rms_norm, x.double(), weight.double(), grad.double())
    assert [value.dtype for value in got] == [torch.bfloat16, torch.bfloat16, torch.float32]
    for a, b in zip(got, expected, strict=True):
        assert_near(a, b)


def test_triton_gives_the_same_bits_twice_and_in_any_tile(place: str):
    data = case(9, 96, torch.float32, place)
    first = outcome(by_triton, *data)
    tile = Tile({"BLOCK_SIZE": 1024, "STAGES": 2}, 8)
    flat = Tile({"BLOCK_SIZE": 1024}, 8)
    with override(rms_norm=flat, rms_norm_backward=tile):
        other = outcome(by_triton, *data)
    for a, b, c in zip(first, outcome(by_triton, *data), other, strict=True):
        assert torch.equal(a, b)
        torch.testing.assert_close(a, c)


def test_triton_takes_a_gradient_that_is_not_contiguous(place: str):
    x, weight, _ = case(6, 32, torch.float32, place)
    grads = []
    for function in (by_triton, reference.rms_norm):
        a = x.clone().requires_grad_()
        function(a, weight, EPS).sum().backward()
        grads.append(a.grad)
    torch.testing.assert_close(*grads, rtol=1e-5, atol=1e-5)


def test_triton_refuses_a_second_derivative(place: str):
    x, weight, _ = case(5, 32, torch.float32, place)
    x.requires_grad_()
    (first,) = torch.autograd.grad(by_triton(x, weight, EPS).sum(), x, create_graph=True)
    with pytest.raises(RuntimeError, match="rms_norm_backward"):
        torch.autograd.grad(first.sum(), x)


def test_triton_opcheck_and_one_graph(place: str):
    x, weight, _ = case(5, 32, torch.float32, place)
    arguments = (x.requires_grad_(), weight.requires_grad_(), EPS, True)
    torch.library.opcheck(torch.ops.plm.rms_norm.default, arguments)
    compiled = torch.compile(by_triton, fullgraph=True, backend="aot_eager")
    assert torch.equal(compiled(x, weight, EPS), by_triton(x, weight, EPS))


@pytest.mark.parametrize(
    ("x", "weight", "message"),
    [
        (torch.ones(2, 8).double(), torch.ones(8), "rms_norm: x is torch.float64; the Triton"),
        (torch.ones(2, 8), torch.ones(8).double(), "rms_norm: weight is torch.float64"),
        (torch.ones(2, 8), torch.ones(7), r"weight has shape \(7,\), the rows of x are 8 long"),
        (torch.ones(8, 2).t(), torch.ones(8), "rms_norm: x is not contiguous"),
        (torch.ones(1, 8193), torch.ones(8193), "x has rows of 8193; the Triton .* 1 to 8192"),
    ],
)
def test_triton_says_what_it_does_not_take(x, weight, message: str):
    with pytest.raises(ConfigError, match=message):
        rms_norm(x, weight, EPS, form="triton")
