import pytest
import torch

from plm.kernels import reference, rms_norm

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
    assert torch.equal(compiled(x, weight, EPS), rms_norm(x, weight, EPS))
