import copy

import pytest
import torch
import torch.nn.functional as F

from plm.batch import IGNORE_INDEX
from plm.errors import ConfigError
from plm.kernels import linear_cross_entropy, reference

V, D = 37, 24
EXACT = {"rtol": 1e-12, "atol": 1e-12}


def case(rows: int, masked: float = 0.3, dtype: torch.dtype = torch.float64):
    labels = torch.randint(0, V, (rows,))
    labels[torch.rand(rows) < masked] = IGNORE_INDEX
    return torch.randn(rows, D, dtype=dtype), torch.randn(V, D, dtype=dtype), labels


def outcome(function, hidden, weight, labels, **settings):
    hidden, weight = hidden.clone().requires_grad_(), weight.clone().requires_grad_()
    sums = function(hidden, weight, labels, **settings)
    # Another factor than 1, so that the incoming gradient must be used.
    (1.7 * sums.total).backward()
    return [sums.total.detach(), *sums[1:], hidden.grad, weight.grad]


@pytest.mark.parametrize("rows", [0, 1, 63, 100])
@pytest.mark.parametrize("masked", [0.0, 0.3, 1.0])
@pytest.mark.parametrize(
    "settings", [{}, {"z_weight": 0.1}, {"ce_weight": 0.0, "z_weight": 0.1}, {"ce_weight": 0.7}]
)
def test_equals_the_reference_in_fp64(rows: int, masked: float, settings: dict):
    data = case(rows, masked)
    got = outcome(linear_cross_entropy, *data, chunk=16, **settings)
    expected = outcome(reference.linear_cross_entropy, *data, **settings)
    for a, b in zip(got, expected, strict=True):
        torch.testing.assert_close(a, b, **EXACT)


def test_fp32_is_near_fp64():
    hidden, weight, labels = case(100)
    expected = outcome(linear_cross_entropy, hidden, weight, labels, z_weight=1e-2)
    got = outcome(linear_cross_entropy, hidden.float(), weight.float(), labels, z_weight=1e-2)
    assert [value.dtype for value in got[:4]] == [torch.float32, torch.int64] + [torch.float32] * 2
    for a, b in zip(got, expected, strict=True):
        assert (a - b).abs().max() <= 1e-5 * b.abs().max()


def test_chunks_change_nothing_but_rounding():
    data = case(100)
    whole = outcome(linear_cross_entropy, *data, chunk=100)
    for chunk in (1, 7, 99, 1000):
        for a, b in zip(outcome(linear_cross_entropy, *data, chunk=chunk), whole, strict=True):
            torch.testing.assert_close(a, b, **EXACT)


def test_large_logits_do_not_overflow():
    hidden, weight, labels = case(20, dtype=torch.float32)
    got = outcome(linear_cross_entropy, 1e3 * hidden, weight, labels)
    expected = outcome(
        reference.linear_cross_entropy, 1e3 * hidden.double(), weight.double(), labels
    )
    assert torch.isfinite(got[-1]).all()
    torch.testing.assert_close(got[0].double(), expected[0], rtol=1e-5, atol=0)


def test_gradcheck():
    labels = torch.tensor([0, 4, IGNORE_INDEX, 2, 2])

    def total(hidden, weight):
        return linear_cross_entropy(hidden, weight, labels, z_weight=0.05, chunk=3).total

    inputs = [torch.randn(5, 4, dtype=torch.float64, requires_grad=True) for _ in range(2)]
    assert torch.autograd.gradcheck(total, inputs)


def test_reference_is_twice_differentiable():
    labels = torch.tensor([0, IGNORE_INDEX, 2])

    def total(hidden, weight):
        return reference.linear_cross_entropy(hidden, weight, labels, z_weight=0.05).total

    inputs = [torch.randn(s, 4, dtype=torch.float64, requires_grad=True) for s in (3, 5)]
    assert torch.autograd.gradgradcheck(total, inputs)


def test_a_second_derivative_is_refused_rather_than_wrong():
    hidden, weight, labels = case(9)
    hidden.requires_grad_()
    total = linear_cross_entropy(hidden, weight, labels).total
    (first,) = torch.autograd.grad(total, hidden, create_graph=True)
    with pytest.raises(RuntimeError, match="linear_cross_entropy_backward"):
        torch.autograd.grad(first.sum(), hidden)


def test_only_the_needed_gradients_are_made():
    hidden, weight, labels = case(9)
    arguments = (labels, 1.0, 0.0, 4, torch.float64)
    op = torch.ops.plm.linear_cross_entropy
    assert [len(g) for g in op(hidden, weight, *arguments, False, False)[4:]] == [0, 0]
    assert [len(g) for g in op(hidden, weight, *arguments, False, True)[4:]] == [0, V]
    weight.requires_grad_()
    linear_cross_entropy(hidden, weight, labels).total.backward()
    assert hidden.grad is None and weight.grad is not None
    with torch.no_grad():
        assert not linear_cross_entropy(hidden, weight, labels).total.requires_grad


def test_autocast_makes_the_product_in_bf16_and_the_rest_in_fp32():
    hidden, weight, labels = case(63, dtype=torch.float32)
    with torch.autocast("cpu", torch.bfloat16):
        got = outcome(linear_cross_entropy, hidden, weight, labels, chunk=16)
    logits = (hidden.bfloat16() @ weight.bfloat16().t()).float()
    expected = F.cross_entropy(logits, labels, ignore_index=IGNORE_INDEX, reduction="sum")
    torch.testing.assert_close(got[0], expected)
    exact = outcome(reference.linear_cross_entropy, hidden, weight, labels)
    for a, b in zip(got[-2:], exact[-2:], strict=True):
        assert a.dtype == torch.float32
        # bf16 holds 8 bits: a few roundings of 2**-8 of the largest value.
        assert (a - b).abs().max() <= 2e-2 * b.abs().max()


def test_bf16_weights_get_a_gradient_added_up_in_fp32():
    hidden = torch.ones(2000, 2, dtype=torch.bfloat16)
    weight = torch.zeros(2, 2, dtype=torch.bfloat16)
    got = outcome(linear_cross_entropy, hidden, weight, torch.zeros(2000).long(), chunk=1)
    # Each row adds -0.5 · 1.7; a sum kept in bf16 would stall at 256 of them.
    assert got[-1].dtype == torch.bfloat16
    torch.testing.assert_close(got[-1][0].float(), torch.full((2,), -1700.0), rtol=1e-2, atol=0)


def test_opcheck_and_one_graph():
    hidden, weight, labels = case(20, dtype=torch.float32)
    hidden.requires_grad_()
    weight.requires_grad_()
    arguments = (hidden, weight, labels, 1.0, 0.1, 8, torch.float32, True, True)
    torch.library.opcheck(torch.ops.plm.linear_cross_entropy.default, arguments)

    def total(hidden, weight, labels):
        return linear_cross_entropy(hidden, weight, labels, z_weight=0.1).total

    compiled = torch.compile(total, fullgraph=True, backend="aot_eager")
    compiled(hidden, weight, labels).backward()
    got = copy.deepcopy(hidden.grad)
    hidden.grad = None
    total(hidden, weight, labels).backward()
    torch.testing.assert_close(got, hidden.grad, rtol=0, atol=0)


def test_chunk_must_be_positive():
    with pytest.raises(ConfigError, match="chunk=0 of linear_cross_entropy"):
        linear_cross_entropy(*case(4), chunk=0)


def on(place: str, *tensors: torch.Tensor) -> list[torch.Tensor]:
    return [tensor.to(place) for tensor in tensors]


@pytest.mark.parametrize("settings", [{}, {"z_weight": 0.1}, {"ce_weight": 0.0, "z_weight": 0.1}])
@pytest.mark.parametrize(("rows", "masked"), [(0, 0.0), (1, 0.0), (63, 0.3), (41, 0.0), (9, 1.0)])
def test_triton_is_near_fp64(place: str, rows: int, masked: float, settings: dict):
    from tests.kernels.interpreter import poisoned

    hidden, weight, labels = on(place, *case(rows, masked))
    expected = outcome(reference.linear_cross_entropy, hidden, weight, labels, **settings)
    # Chunks of 17 rows of two blocks.
    settings = {**settings, "form": "triton", "chunk": 17}
    with poisoned():
        got = outcome(linear_cross_entropy, hidden.float(), weight.float(), labels, **settings)
    for a, b in zip(got, expected, strict=True):
        assert (a - b).abs().max() <= 1e-5 * b.abs().max() if b.numel() else a.shape == b.shape


def test_triton_in_bf16_errs_no_more_than_torch_does(place: str):
    hidden, weight, labels = on(place, *case(40))
    exact = outcome(reference.linear_cross_entropy, hidden, weight, labels)
    narrow = hidden.bfloat16(), weight.bfloat16(), labels
    plain = outcome(linear_cross_entropy, *narrow, form="torch")
    got = outcome(linear_cross_entropy, *narrow, form="triton")
    for a, b, c in zip(got, plain, exact, strict=True):
        assert a.dtype == b.dtype
        assert (a - c).abs().max() <= 2 * (b - c).abs().max()


def test_triton_makes_no_gradient_that_nobody_needs(place: str, monkeypatch):
    from plm.kernels import linear_rows_triton

    hidden, weight, labels = on(place, *case(9, dtype=torch.float32))
    monkeypatch.setattr(linear_rows_triton.TritonMiddle, "gradient", None)
    total = linear_cross_entropy(hidden, weight, labels, form="triton").total
    torch.testing.assert_close(total, linear_cross_entropy(hidden, weight, labels).total)
