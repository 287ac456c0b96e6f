"""Any loss of log-probabilities and entropies: value and gradients against the full logits."""

from functools import partial

import pytest
import torch
from torch import Tensor

from plm.batch import IGNORE_INDEX
from plm.errors import ConfigError
from plm.kernels.linear_logprob import linear_logprob
from plm.kernels.linear_loss import linear_loss
from plm.kernels.reference.linear_loss import LinearLoss
from plm.kernels.reference.linear_loss import linear_loss as slow_loss

V, D = 37, 24
EXACT = {"rtol": 1e-11, "atol": 1e-12}


def case(rows: int, masked: float = 0.3, dtype: torch.dtype = torch.float64, place: str = "cpu"):
    labels = torch.randint(0, V, (rows,))
    labels[torch.rand(rows) < masked] = IGNORE_INDEX
    tensors = torch.randn(rows, D, dtype=dtype), torch.randn(V, D, dtype=dtype), labels
    return [tensor.to(place) for tensor in tensors]


def loss_of(logps: Tensor, entropy: Tensor, span: slice, *, of: str, known: Tensor) -> Tensor:
    """Not linear in either, and another one for each row."""
    here = known[span].to(logps)
    if of == "logps":
        return (logps - here).clamp(max=1.0).exp() * here
    if of == "entropy":
        return entropy.square() * here
    return logps * here + (logps * entropy).sin()


def outcome(function, hidden, weight, labels, *, of: str = "both", **settings) -> list[Tensor]:
    hidden, weight = hidden.clone().requires_grad_(), weight.clone().requires_grad_()
    known = torch.linspace(-1, 2, int((labels != IGNORE_INDEX).sum())).to(hidden)
    each = partial(loss_of, of=of, known=known)
    found = function(hidden, weight, labels, each, **settings)
    (3 * found.loss + 0 * hidden.sum()).backward()
    grads = (g if g is not None else torch.zeros(V, D) for g in (hidden.grad, weight.grad))
    return [*(field.detach() for field in found), *grads]


@pytest.mark.parametrize("of", ["logps", "entropy", "both"])
@pytest.mark.parametrize("temperature", [1.0, 0.6])
@pytest.mark.parametrize(("rows", "masked"), [(0, 0), (1, 0), (63, 0.3), (100, 0), (9, 1)])
def test_equals_the_reference_in_fp64(rows: int, masked: float, temperature: float, of: str):
    settings = {"temperature": temperature, "of": of}
    data = case(rows, masked)
    got = outcome(linear_loss, *data, chunk=16, **settings)
    expected = outcome(slow_loss, *data, **settings)
    for a, b in zip(got, expected, strict=True):
        torch.testing.assert_close(a, b, **EXACT)


@pytest.mark.parametrize("of", ["logps", "entropy", "both"])
@pytest.mark.parametrize(("rows", "masked"), [(0, 0), (63, 0.3)])
def test_triton_is_near_fp64(place: str, rows: int, masked: float, of: str):
    from tests.kernels.interpreter import poisoned

    hidden, weight, labels = case(rows, masked, place=place)
    settings = {"temperature": 0.8, "of": of}
    expected = outcome(slow_loss, hidden, weight, labels, **settings)
    settings |= {"form": "triton", "chunk": 17}
    with poisoned():
        got = outcome(linear_loss, hidden.float(), weight.float(), labels, **settings)
    assert got[0].dtype == torch.float32
    for a, b in zip(got, expected, strict=True):
        torch.testing.assert_close(a, b.to(a), rtol=2e-4, atol=2e-4)


def test_equals_a_loss_on_the_log_probabilities():
    hidden, weight, labels = case(80)
    known = torch.linspace(-1, 2, int((labels != IGNORE_INDEX).sum()), dtype=torch.float64)

    def two_passes(hidden, weight, labels, each, **settings) -> LinearLoss:
        found, kept = linear_logprob(hidden, weight, labels, **settings), labels != IGNORE_INDEX
        logps, entropy = found.logps[kept], found.entropy[kept]
        return LinearLoss(each(logps, entropy, slice(0, len(known))).sum(), logps, entropy)

    got = outcome(linear_loss, hidden, weight, labels, chunk=16)
    expected = outcome(two_passes, hidden, weight, labels, chunk=16)
    for a, b in zip(got, expected, strict=True):
        torch.testing.assert_close(a, b, **EXACT)


def test_any_chunk_gives_the_same():
    data = case(50)
    first, *others = (outcome(linear_loss, *data, chunk=chunk) for chunk in (128, 1, 7))
    for other in others:
        for a, b in zip(first, other, strict=True):
            torch.testing.assert_close(a, b, **EXACT)


@pytest.mark.parametrize("frozen", ["hidden", "weight", "both"])
def test_what_is_frozen_gets_no_gradient(frozen: str):
    hidden, weight, labels = case(30)
    hidden.requires_grad_(frozen not in ("hidden", "both"))
    weight.requires_grad_(frozen not in ("weight", "both"))
    found = linear_loss(hidden, weight, labels, lambda logps, entropy, span: logps, chunk=8)
    assert found.loss.requires_grad == (frozen != "both")
    assert not found.logps.requires_grad and not found.entropy.requires_grad
    if frozen != "both":
        found.loss.backward()
        made = weight if frozen == "hidden" else hidden
        still = hidden if frozen == "hidden" else weight
        assert made.grad.abs().max() > 0 and still.grad is None


def test_without_gradients_and_a_constant_loss():
    hidden, weight, labels = case(30)
    hidden.requires_grad_()
    with torch.no_grad():
        found = linear_loss(hidden, weight, labels, lambda logps, entropy, span: logps, chunk=8)
    assert not found.loss.requires_grad
    found = linear_loss(hidden, weight, labels, lambda lp, en, span: torch.ones_like(lp), chunk=8)
    found.loss.backward()
    assert found.loss == (labels != IGNORE_INDEX).sum() and hidden.grad.abs().max() == 0


def test_under_autocast_the_product_is_narrow():
    hidden, weight, labels = case(64, dtype=torch.float32)
    with torch.autocast("cpu", torch.bfloat16):
        got = outcome(linear_loss, hidden, weight, labels, of="entropy", chunk=16)
        expected = outcome(slow_loss, hidden, weight, labels, of="entropy")
    wide = outcome(slow_loss, hidden, weight, labels, of="entropy")
    assert got[0].dtype == got[3].dtype == torch.float32
    assert (got[2] - wide[2]).abs().max() > 1e-4
    torch.testing.assert_close(got[2], expected[2], rtol=1e-3, atol=1e-3)
    for a, b in zip(got[3:], expected[3:], strict=True):
        assert (a - b).norm() < 0.02 * b.norm()


def test_a_graph_that_is_kept_can_be_gone_through_twice():
    hidden, weight, labels = case(20)
    weight.requires_grad_()
    total = linear_loss(hidden, weight, labels, lambda logps, entropy, span: logps).loss
    first = torch.autograd.grad(total, weight, 2 * torch.ones_like(total), retain_graph=True)[0]
    second = torch.autograd.grad(total, weight)[0]
    torch.testing.assert_close(first, 2 * second, **EXACT)


def test_a_second_derivative_raises():
    hidden, weight, labels = case(10)
    hidden.requires_grad_()
    total = linear_loss(hidden, weight, labels, lambda logps, entropy, span: logps.square()).loss
    with pytest.raises(RuntimeError, match="has no second derivative"):
        torch.autograd.grad(total, hidden, create_graph=True)


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"temperature": 0.0}, "linear_loss: temperature"),
        ({"chunk": 0}, "chunk=0 of linear_loss"),
        ({"labels": torch.full((5,), V)}, "linear_loss"),
    ],
)
def test_bad_input(change: dict, said: str):
    hidden, weight, labels = case(5)
    labels = change.pop("labels", labels)
    with pytest.raises(ConfigError, match=said):
        linear_loss(hidden, weight, labels, lambda logps, entropy, span: logps, **change)
