import pytest
import torch

from plm.errors import ConfigError
from plm.kernels import pick, reference, relu2


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
    with pytest.raises(ConfigError, match="kernels='fast' is not one of: auto, reference"):
        pick("fast")
