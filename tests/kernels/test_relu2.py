import pytest
import torch

from plm.errors import ConfigError
from plm.kernels import pick, reference, relu2
from plm.kernels.tiles import Tile, override
from tests.kernels.interpreter import guarded, poisoned


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32, torch.bfloat16])
@pytest.mark.parametrize("shape", [(63,), (3, 100), (0, 4), (2, 5, 7)])
def test_equals_the_reference_bit_for_bit(shape: tuple, dtype: torch.dtype):
    x = torch.randn(shape).to(dtype)
    grad = torch.randn(shape).to(dtype)
    a, b = x.clone().requires_grad_(), x.clone().requires_grad_()
    got, expected = relu2(a), reference.relu2(b)
    got.backward(grad)
    expected.backward(grad)
    assert torch.equal(got, expected)
    assert torch.equal(a.grad, b.grad)


def test_a_strided_input():
    x = torch.randn(6, 10, dtype=torch.float64)
    a, b = x.clone().requires_grad_(), x.clone().requires_grad_()
    relu2(a.t()[2:]).sum().backward()
    reference.relu2(b.t()[2:]).sum().backward()
    assert torch.equal(a.grad, b.grad)


def test_gradcheck():
    # Away from 0, where the second derivative jumps.
    x = torch.randn(12, dtype=torch.float64)
    x = (x + 0.2 * x.sign()).requires_grad_()
    assert torch.autograd.gradcheck(relu2, x)
    assert torch.autograd.gradgradcheck(reference.relu2, x)


def test_a_second_derivative_is_refused_rather_than_wrong():
    x = torch.randn(12, requires_grad=True)
    (first,) = torch.autograd.grad(relu2(x).sum(), x, create_graph=True)
    with pytest.raises(RuntimeError, match="relu2_backward"):
        torch.autograd.grad(first.sum(), x)


def test_saves_one_tensor():
    saved = []
    with torch.autograd.graph.saved_tensors_hooks(lambda t: saved.append(t) or t, lambda t: t):
        relu2(torch.tensor([-1.0, 2.0], requires_grad=True))
    assert [t.tolist() for t in saved] == [[0.0, 2.0]]


def test_opcheck_and_one_graph():
    x = torch.randn(3, 5, requires_grad=True)
    torch.library.opcheck(torch.ops.plm.relu2.default, (x,))
    compiled = torch.compile(relu2, fullgraph=True, backend="aot_eager")
    assert torch.equal(compiled(x), relu2(x))


def test_pick():
    assert pick("reference") is reference
    assert pick("auto").relu2 is relu2
    with pytest.raises(ConfigError, match="kernels='fast' is not one of: auto, triton, reference"):
        pick("fast")


def by_triton(x):
    return relu2(x, form="triton")


def gradient(function, x, grad):
    x = x.detach().clone().requires_grad_()
    out = function(x)
    out.backward(grad)
    return out.detach(), x.grad


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
@pytest.mark.parametrize("shape", [(1,), (63,), (3, 100), (0, 4), (2, 5, 7)])
def test_triton_has_the_references_bits(shape: tuple, dtype: torch.dtype, place: str):
    x, grad = (guarded(torch.randn(shape).to(place, dtype)) for _ in range(2))
    with poisoned():
        got = gradient(by_triton, x, grad)
    for a, b in zip(got, gradient(reference.relu2, x, grad), strict=True):
        assert torch.equal(a, b)


def test_triton_finds_every_bf16_again_from_its_square(place: str):
    # All positive numbers whose squares are neither subnormal nor infinite.
    bits = torch.arange(0x2000, 0x5F80, dtype=torch.int16)
    x = bits.view(torch.bfloat16).to(place)
    with override(relu2=Tile({"BLOCK_SIZE": 4096}), relu2_backward=Tile({"BLOCK_SIZE": 4096})):
        out, grad = gradient(by_triton, x, torch.ones_like(x))
    assert torch.isfinite(out).all()
    assert torch.equal(grad, 2 * x)


def test_triton_lets_nan_through(place: str):
    x = torch.tensor([float("nan"), -1.0, 2.0], device=place)
    out, grad = gradient(by_triton, x, torch.ones_like(x))
    assert out.isnan().tolist() == grad.isnan().tolist() == [True, False, False]


@pytest.mark.parametrize(("dtype", "kept"), [(torch.bfloat16, 4.0), (torch.float16, 2.0)])
def test_triton_keeps_the_output_and_in_fp16_the_input(dtype, kept: float, place: str):
    saved = []
    x = torch.tensor([2.0], dtype=dtype, device=place).requires_grad_()
    with torch.autograd.graph.saved_tensors_hooks(lambda t: saved.append(t) or t, lambda t: t):
        by_triton(x)
    assert [t.tolist() for t in saved] == [[kept]]


def test_triton_refuses_a_second_derivative(place: str):
    x = torch.randn(12, device=place, requires_grad=True)
    (first,) = torch.autograd.grad(by_triton(x).sum(), x, create_graph=True)
    with pytest.raises(RuntimeError, match="relu2_backward"):
        torch.autograd.grad(first.sum(), x)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float16])
def test_triton_opcheck_and_one_graph(dtype: torch.dtype, place: str):
    x = torch.randn(3, 5, device=place).to(dtype).requires_grad_()
    torch.library.opcheck(torch.ops.plm.relu2.default, (x, True))
    compiled = torch.compile(by_triton, fullgraph=True, backend="aot_eager")
    grad = torch.ones_like(x)
    for a, b in zip(gradient(compiled, x, grad), gradient(by_triton, x, grad), strict=True):
        assert torch.equal(a, b)


@pytest.mark.parametrize(
    ("x", "message"),
    [
        (torch.ones(4).double(), "relu2: x is torch.float64; the Triton kernel takes"),
        (torch.ones(4, 2).t(), "relu2: x is not contiguous"),
    ],
)
def test_triton_says_what_it_does_not_take(x, message: str):
    with pytest.raises(ConfigError, match=message):
        relu2(x, form="triton")
