import pytest
import torch

from plm.errors import ConfigError
from plm.kernels import reference, rms_norm
from plm.kernels.add_rms_norm import add_rms_norm
from plm.kernels.reference.add_rms_norm import add_rms_norm as plain
from plm.kernels.tiles import Tile, override
from tests.kernels.interpreter import guarded, poisoned
from tests.kernels.nearness import assert_near

EPS = 1e-6


def case(rows: int, size: int, dtype: torch.dtype, device: str = "cpu") -> list[torch.Tensor]:
    """x, residual, weight, and the gradients of both outputs."""
    shapes = (rows, size), (rows, size), (size,), (rows, size), (rows, size)
    return [guarded(torch.randn(shape).to(device, dtype)) for shape in shapes]


def outcome(function, x, residual, weight, *grads, **settings):
    """Outputs, and the gradients of x, residual and weight; grads may be None."""
    inputs = [value.detach().clone().requires_grad_() for value in (x, residual, weight)]
    outs = function(*inputs, EPS, **settings)
    pairs = [(out, grad) for out, grad in zip(outs, grads, strict=True) if grad is not None]
    used, grads = zip(*pairs, strict=True)
    found = torch.autograd.grad(used, inputs, grads, allow_unused=True)
    return *(out.detach() for out in outs), *found


def exact(x, residual, weight, *grads):
    """In fp64, but with the sum rounded as the op hands it on."""
    kind = torch.promote_types(x.dtype, residual.dtype)
    summed = (x.double() + residual.double()).to(kind).double()
    data = summed, torch.zeros_like(summed), weight.double()
    return outcome(plain, *data, *(None if grad is None else grad.double() for grad in grads))


@pytest.mark.parametrize("form", ["triton", "torch"])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
@pytest.mark.parametrize("shape", [(1, 5), (7, 63), (5, 100), (11, 64), (0, 8)])
def test_is_near_fp64(shape: tuple, dtype: torch.dtype, form: str, place: str):
    data = case(*shape, dtype, place)
    with poisoned():
        got = outcome(add_rms_norm, *data, form=form)
    for index, (a, b) in enumerate(zip(got, exact(*data), strict=True)):
        assert a.dtype == dtype
        # torch rounds the norm's gradient before it adds the sum's.
        torch_sum = form == "torch" and index in (2, 3) and dtype != torch.float32
        if torch_sum:
            torch.testing.assert_close(a, b.to(dtype), rtol=2**-6, atol=2**-6)
        else:
            assert_near(a, b)


@pytest.mark.parametrize("form", ["triton", "torch"])
@pytest.mark.parametrize("which", [(True, False), (False, True)])
def test_one_gradient_alone(which: tuple, form: str, place: str):
    *data, first, second = case(7, 33, torch.float32, place)
    grads = [grad if used else None for grad, used in zip((first, second), which, strict=True)]
    got, expected = outcome(add_rms_norm, *data, *grads, form=form), exact(*data, *grads)
    for a, b in zip(got[:4], expected[:4], strict=True):
        assert_near(a, b)
    if which[0]:
        assert_near(got[4], expected[4])
    else:
        assert got[4] is None


@pytest.mark.parametrize("form", ["triton", "torch"])
def test_dtypes_may_differ(form: str, place: str):
    x, residual, weight, *grads = case(7, 64, torch.float32, place)
    data = x.bfloat16(), residual, weight, *grads
    got, expected = outcome(add_rms_norm, *data, form=form), exact(*data)
    kinds = [torch.float32, torch.float32, torch.bfloat16, torch.float32, torch.float32]
    assert [value.dtype for value in got] == kinds
    for a, b in zip(got, expected, strict=True):
        assert_near(a, b)


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32, torch.bfloat16])
def test_on_a_cpu_it_has_the_bits_of_adding_and_norming_apart(dtype: torch.dtype):
    data = case(9, 40, dtype)

    def apart(x, residual, weight, eps):
        summed = residual + x
        return rms_norm(summed, weight, eps), summed

    for a, b in zip(outcome(add_rms_norm, *data), outcome(apart, *data), strict=True):
        assert torch.equal(a, b)


def test_triton_gives_the_same_bits_twice_and_in_any_tile(place: str):
    data = case(9, 96, torch.float32, place)
    first = outcome(add_rms_norm, *data, form="triton")
    flat, walk = Tile({"BLOCK_SIZE": 1024}, 8), Tile({"BLOCK_SIZE": 1024, "STAGES": 2}, 8)
    with override(add_rms_norm=flat, add_rms_norm_backward=walk):
        other = outcome(add_rms_norm, *data, form="triton")
    again = outcome(add_rms_norm, *data, form="triton")
    for a, b, c in zip(first, again, other, strict=True):
        assert torch.equal(a, b)
        torch.testing.assert_close(a, c)


@pytest.mark.parametrize("form", ["triton", "torch"])
def test_a_second_derivative_is_refused_rather_than_wrong(form: str, place: str):
    x, residual, weight, *_ = case(5, 32, torch.float32, place)
    x.requires_grad_()
    normed, _ = add_rms_norm(x, residual, weight, EPS, form=form)
    (first,) = torch.autograd.grad(normed.sum(), x, create_graph=True)
    with pytest.raises(RuntimeError, match="add_rms_norm_backward"):
        torch.autograd.grad(first.sum(), x)


def test_the_reference_is_twice_differentiable():
    inputs = [torch.randn(s, dtype=torch.float64, requires_grad=True) for s in ((3, 4), (3, 4), 4)]
    assert torch.autograd.gradgradcheck(lambda *a: plain(*a, EPS), inputs)


@pytest.mark.parametrize("form", ["triton", "torch"])
@pytest.mark.parametrize("mixed", [False, True])
def test_opcheck(mixed: bool, form: str, place: str):
    x, residual, weight, *grads = case(5, 32, torch.float32, place)
    x = x.bfloat16() if mixed else x
    inputs = [value.requires_grad_() for value in (x, residual, weight)]
    triton = form == "triton"
    torch.library.opcheck(torch.ops.plm.add_rms_norm.default, (*inputs, EPS, triton))
    saved = residual.detach(), weight.detach(), torch.ones(5, 1, device=place)
    kinds = x.dtype, residual.dtype
    for second in (grads[1], None):
        arguments = grads[0], second, *saved, *kinds, triton
        torch.library.opcheck(torch.ops.plm.add_rms_norm_backward.default, arguments)


@pytest.mark.parametrize("form", ["triton", "torch"])
def test_one_graph(form: str, place: str):
    data = case(5, 32, torch.float32, place)
    compiled = torch.compile(add_rms_norm, fullgraph=True, backend="aot_eager")
    got = outcome(compiled, *data, form=form)
    for a, b in zip(got, outcome(add_rms_norm, *data, form=form), strict=True):
        assert torch.equal(a, b)


@pytest.mark.parametrize(
    ("x", "residual", "weight", "message"),
    [
        (torch.ones(2, 8), torch.ones(1, 8), torch.ones(8), r"\(2, 8\), residual \(1, 8\); they"),
        (torch.ones(2, 8), torch.ones(2, 8).double(), torch.ones(8), "residual is torch.float64"),
        (torch.ones(2, 8), torch.ones(8, 2).t(), torch.ones(8), "residual is not contiguous"),
        (torch.ones(2, 8), torch.ones(2, 8), torch.ones(7), r"weight has shape \(7,\)"),
    ],
)
def test_says_what_it_does_not_take(x, residual, weight, message: str):
    with pytest.raises(ConfigError, match=f"add_rms_norm: .*{message}"):
        add_rms_norm(x, residual, weight, EPS, form="triton")


def test_the_reference_adds_and_norms():
    x, residual, weight, *_ = case(3, 4, torch.float64)
    normed, summed = plain(x, residual, weight, EPS)
    assert torch.equal(summed, x + residual)
    assert torch.equal(normed, reference.rms_norm(summed, weight, EPS))


def test_under_autocast_the_norm_is_narrow_and_the_sum_is_not(place: str):
    x, residual, weight, grad, grad_summed = case(7, 48, torch.float32, place)
    x, grad = x.bfloat16(), grad.bfloat16()
    with torch.autocast(place, torch.bfloat16), poisoned():
        got = outcome(add_rms_norm, x, residual, weight, grad, grad_summed, form="triton")
        alone = rms_norm(residual, weight, EPS, form="triton")
    kinds = [value.dtype for value in got]
    assert kinds == [torch.bfloat16, torch.float32, torch.bfloat16, torch.float32, torch.float32]
    for a, b in zip(got, exact(x, residual, weight, grad, grad_summed), strict=True):
        assert_near(a, b)
    assert alone.dtype == torch.bfloat16
    assert_near(alone, reference.rms_norm(residual.double(), weight.double(), EPS))
