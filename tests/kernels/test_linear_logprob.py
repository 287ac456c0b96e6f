import pytest
import torch
import torch.nn.functional as F

from plm.batch import IGNORE_INDEX
from plm.errors import ConfigError
from plm.kernels.linear_logprob import linear_logprob
from plm.kernels.reference.linear_logprob import linear_logprob as slow_logprob

V, D = 37, 24
EXACT = {"rtol": 1e-11, "atol": 1e-12}


def case(rows: int, masked: float = 0.3, dtype: torch.dtype = torch.float64, place: str = "cpu"):
    labels = torch.randint(0, V, (rows,))
    labels[torch.rand(rows) < masked] = IGNORE_INDEX
    tensors = torch.randn(rows, D, dtype=dtype), torch.randn(V, D, dtype=dtype), labels
    return [tensor.to(place) for tensor in tensors]


def outcome(function, hidden, weight, labels, *, of: str = "both", **settings):
    """The three fields and the two gradients, under unlike factors on logps and entropy."""
    hidden, weight = hidden.clone().requires_grad_(), weight.clone().requires_grad_()
    found = function(hidden, weight, labels, **settings)
    factors = torch.linspace(-1, 2, 2 * len(labels), dtype=found.logps.dtype).view(2, -1)
    logp_factors, entropy_factors = factors.to(hidden.device)
    total = 0.0 * hidden.sum() if of == "neither" else 0
    if of in ("logps", "both"):
        total = total + (found.logps * logp_factors).sum()
    if of in ("entropy", "both"):
        total = total + (found.entropy * entropy_factors).sum()
    total.backward()
    return [*(field.detach() for field in found), hidden.grad, weight.grad]


@pytest.mark.parametrize("of", ["logps", "entropy", "both"])
@pytest.mark.parametrize("temperature", [1.0, 0.6])
@pytest.mark.parametrize(("rows", "masked"), [(0, 0), (1, 0), (63, 0.3), (100, 0), (9, 1)])
def test_equals_the_reference_in_fp64(rows: int, masked: float, temperature: float, of: str):
    settings = {"temperature": temperature, "of": of}
    data = case(rows, masked)
    got = outcome(linear_logprob, *data, chunk=16, **settings)
    expected = outcome(slow_logprob, *data, **settings)
    for a, b in zip(got, expected, strict=True):
        torch.testing.assert_close(a, b, **EXACT)


@pytest.mark.parametrize("of", ["logps", "entropy", "both"])
@pytest.mark.parametrize(("rows", "masked"), [(0, 0), (1, 0), (63, 0.3), (9, 1)])
def test_triton_is_near_fp64(place: str, rows: int, masked: float, of: str):
    from tests.kernels.interpreter import poisoned

    hidden, weight, labels = case(rows, masked, place=place)
    settings = {"temperature": 0.8, "of": of}
    expected = outcome(slow_logprob, hidden, weight, labels, **settings)
    settings |= {"form": "triton", "chunk": 17}
    with poisoned():
        got = outcome(linear_logprob, hidden.float(), weight.float(), labels, **settings)
    assert got[0].dtype == got[1].dtype == torch.float32
    for a, b in zip(got, expected, strict=True):
        assert (a - b).abs().max() <= 1e-5 * b.abs().max() if b.numel() else a.shape == b.shape


def test_fp32_is_near_fp64():
    hidden, weight, labels = case(100)
    expected = outcome(linear_logprob, hidden, weight, labels)
    got = outcome(linear_logprob, hidden.float(), weight.float(), labels)
    for a, b in zip(got, expected, strict=True):
        assert (a - b).abs().max() <= 1e-5 * b.abs().max()


def test_by_hand():
    # Logits 0 and 2·ln 3 at temperature 2: probabilities 1/4 and 3/4.
    hidden = torch.ones(3, 1, dtype=torch.float64)
    weight = torch.tensor([[0.0], [2.0]], dtype=torch.float64) * torch.tensor(3.0).double().log()
    labels = torch.tensor([0, 1, IGNORE_INDEX])
    found = linear_logprob(hidden, weight, labels, temperature=2.0)
    quarters = torch.tensor([0.25, 0.75, 1.0]).double()
    torch.testing.assert_close(found.logps, quarters.log(), **EXACT)
    entropy = -(quarters[:2] * quarters[:2].log()).sum()
    torch.testing.assert_close(found.entropy, torch.stack([entropy, entropy, 0 * entropy]), **EXACT)
    assert found.top1.tolist() == [1, 1, IGNORE_INDEX]


def test_chunks_change_nothing_but_rounding():
    data = case(50)
    whole = outcome(linear_logprob, *data, chunk=50)
    for chunk in (1, 7, 49, 1000):
        for a, b in zip(outcome(linear_logprob, *data, chunk=chunk), whole, strict=True):
            torch.testing.assert_close(a, b, **EXACT)


def test_large_logits_do_not_overflow():
    hidden, weight, labels = case(20, dtype=torch.float32)
    got = outcome(linear_logprob, 1e3 * hidden, weight, labels)
    expected = outcome(slow_logprob, 1e3 * hidden.double(), weight.double(), labels)
    assert all(torch.isfinite(part.double()).all() for part in got)
    torch.testing.assert_close(got[0].double(), expected[0], rtol=1e-4, atol=1e-2)


def test_a_gradient_that_nobody_needs_is_not_made():
    hidden, weight, labels = case(9)
    weight.requires_grad_()
    linear_logprob(hidden, weight, labels).logps.sum().backward()
    assert hidden.grad is None and weight.grad is not None
    with torch.no_grad():
        assert not linear_logprob(hidden, weight, labels).logps.requires_grad


def test_the_backward_holds_no_logits():
    hidden, weight, labels = case(64)
    kept = []

    def note(tensor: torch.Tensor) -> torch.Tensor:
        kept.append(tensor.numel())
        return tensor

    hidden.requires_grad_()
    with torch.autograd.graph.saved_tensors_hooks(note, lambda tensor: tensor):
        linear_logprob(hidden, weight, labels)
    # hidden, weight, labels, and two numbers a row.
    assert sum(kept) == 64 * D + V * D + 3 * 64


def test_autocast_makes_the_product_in_bf16_and_the_rest_in_fp32():
    hidden, weight, labels = case(63, dtype=torch.float32)
    with torch.autocast("cpu", torch.bfloat16):
        got = outcome(linear_logprob, hidden, weight, labels, chunk=16)
    logits = (hidden.bfloat16() @ weight.bfloat16().t()).float()
    expected = -F.cross_entropy(logits, labels, ignore_index=IGNORE_INDEX, reduction="none")
    torch.testing.assert_close(got[0], expected)
    exact = outcome(slow_logprob, hidden, weight, labels)
    for a, b in zip(got[-2:], exact[-2:], strict=True):
        assert a.dtype == torch.float32
        # bf16 holds 8 bits: a few roundings of 2**-8 of the largest value.
        assert (a - b).abs().max() <= 2e-2 * b.abs().max()


def test_autocast_around_the_backward_alone_changes_nothing():
    hidden, weight, labels = case(30, dtype=torch.bfloat16)
    weight.requires_grad_()
    grads = []
    for inside in (False, True):
        logps = linear_logprob(hidden, weight, labels).logps
        with torch.autocast("cpu", torch.float16, enabled=inside):
            grads.append(torch.autograd.grad(logps.sum(), weight)[0])
    assert torch.equal(*grads)


def test_gradcheck():
    labels = torch.tensor([0, 4, IGNORE_INDEX, 2, 2])

    def fields(hidden, weight):
        return linear_logprob(hidden, weight, labels, temperature=0.7, chunk=3)[:2]

    inputs = [torch.randn(5, 4, dtype=torch.float64, requires_grad=True) for _ in range(2)]
    assert torch.autograd.gradcheck(fields, inputs)


def test_reference_is_twice_differentiable():
    labels = torch.tensor([0, IGNORE_INDEX, 2])

    def fields(hidden, weight):
        return slow_logprob(hidden, weight, labels, temperature=0.7)[:2]

    inputs = [torch.randn(s, 4, dtype=torch.float64, requires_grad=True) for s in (3, 5)]
    assert torch.autograd.gradgradcheck(fields, inputs)


def test_a_second_derivative_is_refused_rather_than_wrong():
    hidden, weight, labels = case(9)
    hidden.requires_grad_()
    logps = linear_logprob(hidden, weight, labels).logps
    (first,) = torch.autograd.grad(logps.sum(), hidden, create_graph=True)
    with pytest.raises(RuntimeError, match="linear_logprob_backward"):
        torch.autograd.grad(first.sum(), hidden)


def test_opcheck_and_one_graph():
    hidden, weight, labels = case(20, dtype=torch.float32)
    hidden.requires_grad_()
    weight.requires_grad_()
    arguments = (hidden, weight, labels, 0.7, 8, torch.float32, "auto")
    torch.library.opcheck(torch.ops.plm.linear_logprob.default, arguments)

    def total(hidden, weight, labels):
        found = linear_logprob(hidden, weight, labels, temperature=0.7)
        return found.logps.sum() + found.entropy.square().sum()

    compiled = torch.compile(total, fullgraph=True, backend="aot_eager")
    compiled(hidden, weight, labels).backward()
    got = hidden.grad.clone()
    hidden.grad = None
    total(hidden, weight, labels).backward()
    torch.testing.assert_close(got, hidden.grad, rtol=0, atol=0)


@pytest.mark.parametrize("temperature", [0.0, -1.0, float("inf"), float("nan")])
def test_temperature_must_be_positive(temperature: float):
    with pytest.raises(ConfigError, match=f"temperature={temperature} is not a positive number"):
        linear_logprob(*case(4), temperature=temperature)
