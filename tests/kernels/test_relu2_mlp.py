import pytest
import torch
from torch import Tensor

from plm.errors import ConfigError
from plm.kernels.reference.relu2_mlp import relu2_mlp as plain
from plm.kernels.relu2_mlp import relu2_mlp
from tests.kernels.interpreter import guarded, poisoned

D, F = 48, 80


def case(rows: int, dtype: torch.dtype, place: str = "cpu", size: int = D, wide: int = F):
    """x, up, down and a gradient of the output, with neighbours of NaN."""
    shapes = (rows, size), (wide, size), (size, wide), (rows, size)
    return [guarded(torch.randn(shape).div(shape[-1] ** 0.5).to(place, dtype)) for shape in shapes]


def outcome(function, x, up, down, grad) -> list[Tensor]:
    """Output and the three gradients."""
    inputs = [t.detach().requires_grad_() for t in (x, up, down)]
    y = function(*inputs)
    return [y.detach(), *torch.autograd.grad(y, inputs, grad)]


def by_triton(x, up, down):
    return relu2_mlp(x, up, down, form="triton")


def exact(data) -> list[Tensor]:
    return outcome(plain, *(t.double() for t in data))


def assert_fp32(got: list[Tensor], truth: list[Tensor]) -> None:
    for a, b in zip(got, truth, strict=True):
        assert a.dtype == torch.float32 and a.shape == b.shape
        if b.numel():
            assert (a - b).abs().max() <= 1e-5 * b.abs().max()


def assert_as_good(got: list[Tensor], twin: list[Tensor], truth: list[Tensor]) -> None:
    """No error is more than twice the largest of the reference with the same casts."""
    for a, b, c in zip(got, twin, truth, strict=True):
        assert a.dtype == b.dtype and a.shape == b.shape
        if c.numel():
            assert (a.double() - c).abs().max() <= 2 * (b.double() - c).abs().max()


@pytest.mark.parametrize("rows", [0, 1, 63, 100, 127])
def test_triton_in_fp32(rows: int, place: str):
    data = case(rows, torch.float32, place)
    with poisoned():
        got = outcome(by_triton, *data)
    assert_fp32(got, exact(data))


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
@pytest.mark.parametrize("rows", [1, 63, 101])
def test_triton_in_narrow_types(rows: int, dtype: torch.dtype, place: str):
    data = case(rows, dtype, place)
    with poisoned():
        got = outcome(by_triton, *data)
    assert_as_good(got, outcome(plain, *data), exact(data))


@pytest.mark.parametrize(("size", "wide"), [(16, 16), (32, 64), (112, 16)])
def test_triton_with_other_sizes(size: int, wide: int, place: str):
    data = case(40, torch.float32, place, size, wide)
    assert_fp32(outcome(by_triton, *data), exact(data))


def test_triton_gives_the_same_bits_twice(place: str):
    data = case(63, torch.bfloat16, place)
    for a, b in zip(outcome(by_triton, *data), outcome(by_triton, *data), strict=True):
        assert torch.equal(a, b)


def test_triton_keeps_nan(place: str):
    x, up, down, _ = case(3, torch.float32, place)
    x[1, 0] = float("nan")
    assert by_triton(x, up, down).isnan().any(1).tolist() == [False, True, False]


@pytest.mark.parametrize("rows", [0, 1, 63, 1024, 2100])
def test_torch_in_fp32_and_fp64(rows: int):
    data = case(rows, torch.float32)
    truth = exact(data)
    assert_fp32(outcome(relu2_mlp, *data), truth)
    for a, b in zip(outcome(relu2_mlp, *(t.double() for t in data)), truth, strict=True):
        torch.testing.assert_close(a, b, rtol=1e-12, atol=1e-12)


def test_torch_in_bf16_adds_up_in_fp32():
    data = case(2100, torch.bfloat16)
    assert_as_good(outcome(relu2_mlp, *data), outcome(plain, *data), exact(data))


def test_autocast_gives_what_the_reference_gives():
    x, up, down, grad = case(63, torch.float32)
    with torch.autocast("cpu", torch.bfloat16):
        got = outcome(relu2_mlp, x, up, down, grad.bfloat16())
        expected = outcome(plain, x, up, down, grad.bfloat16())
    assert [t.dtype for t in got] == [torch.bfloat16] + [torch.float32] * 3
    assert_as_good(got, expected, exact((x, up, down, grad.bfloat16())))
    with torch.autocast("cpu", torch.bfloat16):
        assert relu2_mlp(x.double(), up.double(), down.double()).dtype == torch.float64


@pytest.mark.parametrize("form", ["torch", "triton"])
def test_autocast_around_the_backward_changes_nothing(form: str, place: str):
    *inputs, grad = case(20, torch.float32, place)
    inputs = [t.requires_grad_() for t in inputs]
    y = relu2_mlp(*inputs, form=form)
    with torch.autocast(place, torch.bfloat16):
        got = torch.autograd.grad(y, inputs, grad)
    assert_fp32([y.detach(), *got], exact([t.detach() for t in (*inputs, grad)]))


def test_more_dimensions_and_other_strides():
    x, up, down, grad = case(60, torch.float64)
    truth = outcome(plain, x, up, down, grad)
    got = outcome(
        lambda x, up, down: relu2_mlp(x.view(3, 20, D), up, down).view(60, D), x, up, down, grad
    )
    strided = outcome(relu2_mlp, x.t().contiguous().t(), up.t().contiguous().t(), down, grad)
    for a, b, c in zip(got, strided, truth, strict=True):
        torch.testing.assert_close(a, c, rtol=1e-12, atol=1e-12)
        torch.testing.assert_close(b, c, rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize("form", ["torch", "triton"])
def test_only_what_is_needed_is_kept_and_made(form: str, place: str):
    x, up, down, grad = case(20, torch.float32, place)
    truth, saved = exact((x, up, down, grad)), []

    def seen(needed: int):
        inputs = [t.detach().requires_grad_(i == needed) for i, t in enumerate((x, up, down))]
        with torch.autograd.graph.saved_tensors_hooks(lambda t: saved.append(t) or t, lambda t: t):
            relu2_mlp(*inputs, form=form).backward(grad)
        return [t.grad for t in inputs]

    for needed in range(3):
        saved.clear()
        grads = seen(needed)
        assert [g is not None for g in grads] == [i == needed for i in range(3)]
        assert_fp32([grads[needed]], [truth[1 + needed]])
        # Beside the inputs relu(x @ up.T) alone.
        assert [tuple(t.shape) for t in saved] == [(20, D), (F, D), (D, F), (20, F)]
    saved.clear()
    with torch.no_grad():
        seen_without = relu2_mlp(x, up.requires_grad_(), down, form=form)
    assert not saved and not seen_without.requires_grad
    assert_fp32([seen_without], truth[:1])


def test_gradcheck():
    x, up, down, _ = case(5, torch.float64, size=4, wide=6)
    inputs = [t.clone().requires_grad_() for t in (x, up, down)]
    assert torch.autograd.gradcheck(relu2_mlp, inputs)
    assert torch.autograd.gradgradcheck(plain, inputs)


@pytest.mark.parametrize("form", ["torch", "triton"])
def test_a_second_derivative_is_refused_rather_than_wrong(form: str, place: str):
    x, up, down, _ = case(9, torch.float32, place)
    x = x.requires_grad_()
    (first,) = torch.autograd.grad(relu2_mlp(x, up, down, form=form).sum(), x, create_graph=True)
    with pytest.raises(RuntimeError, match="relu2_mlp_backward"):
        torch.autograd.grad(first.sum(), x)


@pytest.mark.parametrize("form", ["torch", "triton"])
def test_opcheck_and_one_graph(form: str, place: str):
    *inputs, grad = case(20, torch.float32, place)
    arguments = [t.clone().requires_grad_() for t in inputs]
    torch.library.opcheck(torch.ops.plm.relu2_mlp.default, (*arguments, True, form == "triton"))

    def call(x, up, down):
        return relu2_mlp(x, up, down, form=form)

    compiled = torch.compile(call, fullgraph=True, backend="aot_eager")
    expected = outcome(call, *inputs, grad)
    for a, b in zip(outcome(compiled, *inputs, grad), expected, strict=True):
        assert torch.equal(a, b)


def changed(**tensors: Tensor) -> list[Tensor]:
    x, up, down, _ = case(4, torch.float32)
    return [tensors.get("x", x), tensors.get("up", up), tensors.get("down", down)]


@pytest.mark.parametrize(
    ("data", "message"),
    [
        (changed(up=torch.ones(F, 32)), r"up and down are \[80, 32\] and \[48, 80\]; x of 48"),
        (changed(down=torch.ones(D, F).half()), "down is torch.float16, x torch.float32"),
        (changed(up=torch.ones(D, F).t()), "up is not contiguous"),
        ([torch.ones(4, 24), torch.ones(16, 24), torch.ones(24, 16)], r"D \(columns of x\) is 24"),
        ([torch.ones(4, 16), torch.ones(40, 16), torch.ones(16, 40)], r"F \(rows of up\) is 40"),
        ([t.double() for t in changed()], "x is torch.float64; the Triton kernel takes"),
    ],
)
def test_what_triton_does_not_take_is_named(data: list[Tensor], message: str):
    with pytest.raises(ConfigError, match=f"relu2_mlp: {message}"):
        relu2_mlp(*data, form="triton")
    with pytest.raises(ConfigError, match="form='fast' of relu2_mlp is not one of"):
        relu2_mlp(*changed(), form="fast")


@pytest.mark.parametrize("form", ["torch", "triton"])
def test_an_observer_sees_what_is_active(form: str, place: str):
    x, up, down = (torch.randn(s, device=place) for s in ((5, 16), (32, 16), (16, 32)))
    seen: list[torch.Tensor] = []
    with torch.no_grad():
        relu2_mlp(x, up, down, observe=seen.append, form=form)
    relu2_mlp(x.requires_grad_(), up, down, observe=seen.append, form=form)
    for active in seen:
        assert not active.requires_grad
        torch.testing.assert_close(active, (x @ up.T).relu().detach())
    assert len(seen) == 2
