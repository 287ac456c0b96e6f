import pytest
import torch

from plm.batch import IGNORE_INDEX
from plm.errors import ConfigError
from plm.kernels.linear_logprob import linear_logprob
from plm.kernels.linear_policy_loss import linear_policy_loss
from plm.kernels.reference.linear_policy_loss import linear_policy_loss as slow_policy_loss

V, D = 37, 24
EXACT = {"rtol": 1e-11, "atol": 1e-12}
SETTINGS = [
    {},
    {"clip_high": 0.28, "entropy_weight": 0.01},
    {"kl_weight": 0.04, "entropy_weight": 0.02, "temperature": 0.7},
    {"objective": "cispo", "clip_low": 1.0, "clip_high": 0.3},
    {"objective": "cispo", "kl_weight": 0.04, "entropy_weight": 0.01},
    {"old_logps": None, "kl_weight": 0.04, "entropy_weight": 0.01},
    {"old_logps": None, "objective": "cispo"},
]


def names(settings: dict) -> str:
    return " ".join(f"{key}={value}" for key, value in settings.items()) or "plain"


def case(rows: int, masked: float = 0.3, place: str = "cpu", temperature: float = 1.0) -> dict:
    """fp64 arguments whose ratios lie on both sides of both bounds; masked rows hold NaN."""
    labels = torch.randint(0, V, (rows,))
    labels[torch.rand(rows) < masked] = IGNORE_INDEX
    hidden, weight = (0.5 * torch.randn(n, D, dtype=torch.float64) for n in (rows, V))
    logps = linear_logprob(hidden, weight, labels, temperature=temperature).logps
    hole = torch.where(labels == IGNORE_INDEX, float("nan"), 0.0)
    noise = torch.randn(4, rows, dtype=torch.float64)
    given = {
        "hidden": hidden,
        "weight": weight,
        "labels": labels,
        "old_logps": logps + 0.4 * noise[0] + hole,
        "advantages": noise[1] + hole,
        "weights": noise[2].abs() + hole,
        "ref_logps": logps + 0.5 * noise[3] + hole,
    }
    if rows > 5:
        given["advantages"][5] = 0
    return {name: tensor.to(place) for name, tensor in given.items()}


def outcome(function, given: dict):
    hidden, weight = (given[name].clone().requires_grad_() for name in ("hidden", "weight"))
    found = function(**{**given, "hidden": hidden, "weight": weight})
    assert not any(field.requires_grad for field in found[1:])
    # Another factor than 1, so that the incoming gradient must be used.
    (1.7 * found.total).backward()
    return [*(field.detach() for field in found), hidden.grad, weight.grad]


def from_logprob(
    hidden,
    weight,
    labels,
    old_logps,
    advantages,
    weights,
    ref_logps,
    objective="clip",
    clip_low=0.2,
    clip_high=0.2,
    kl_weight=0.0,
    entropy_weight=0.0,
    temperature=1.0,
) -> torch.Tensor:
    """The total, row by row as the papers write it, from linear_logprob."""
    every = linear_logprob(hidden, weight, labels, temperature=temperature)
    total = every.logps.sum() * 0
    for t in (labels != IGNORE_INDEX).nonzero()[:, 0].tolist():
        logp, a = every.logps[t], advantages[t]
        old = logp.detach() if old_logps is None else old_logps[t]
        r = (logp - old).exp()
        now = float(r.detach())
        inside = min(max(now, 1 - clip_low), 1 + clip_high)
        if objective == "cispo":
            loss = -inside * a * logp
        elif inside * a < now * a:
            loss = -inside * a
        else:
            loss = -r * a
        gap = ref_logps[t] - logp
        loss = loss + kl_weight * (gap.exp() - gap - 1) - entropy_weight * every.entropy[t]
        total = total + weights[t] * loss
    return total


@pytest.mark.parametrize("settings", SETTINGS, ids=names)
def test_equals_linear_logprob_and_the_formula_by_hand(settings: dict):
    given = case(40, temperature=settings.get("temperature", 1.0)) | settings
    got = outcome(linear_policy_loss, {**given, "chunk": 16})
    hidden, weight = (given[name].clone().requires_grad_() for name in ("hidden", "weight"))
    total = from_logprob(**{**given, "hidden": hidden, "weight": weight})
    (1.7 * total).backward()
    for a, b in zip((got[0], *got[-2:]), (total.detach(), hidden.grad, weight.grad), strict=True):
        torch.testing.assert_close(a, b, **EXACT)


@pytest.mark.parametrize("settings", SETTINGS, ids=names)
@pytest.mark.parametrize(("rows", "masked"), [(0, 0), (1, 0), (63, 0.3), (100, 0), (9, 1)])
def test_equals_the_reference_in_fp64(rows: int, masked: float, settings: dict):
    given = case(rows, masked, temperature=settings.get("temperature", 1.0)) | settings
    got = outcome(linear_policy_loss, {**given, "chunk": 16})
    for a, b in zip(got, outcome(slow_policy_loss, given), strict=True):
        torch.testing.assert_close(a, b, **EXACT)


@pytest.mark.parametrize("settings", SETTINGS[1:5], ids=names)
@pytest.mark.parametrize(("rows", "masked"), [(0, 0), (1, 0), (47, 0.3), (9, 1)])
def test_triton_is_near_fp64(place: str, rows: int, masked: float, settings: dict):
    from tests.kernels.interpreter import poisoned

    given = case(rows, masked, place, settings.get("temperature", 1.0)) | settings
    expected = outcome(slow_policy_loss, given)
    narrow = {
        name: value.float() if torch.is_tensor(value) and value.is_floating_point() else value
        for name, value in given.items()
    }
    with poisoned():
        got = outcome(linear_policy_loss, {**narrow, "form": "triton", "chunk": 17})
    for a, b in zip(got, expected, strict=True):
        # kl is a difference of numbers near 1.
        assert (a - b).abs().max() <= 2e-5 * b.abs().max() if b.numel() else a.shape == b.shape


def test_both_bounds_are_reached():
    given = case(100)
    for objective in ("clip", "cispo"):
        found = linear_policy_loss(**given, objective=objective)
        assert found.clipped_low > 5 and found.clipped_high > 5 and found.kl > 0
    assert found.count == (given["labels"] != IGNORE_INDEX).sum()


@pytest.mark.parametrize("objective", ["clip", "cispo"])
@pytest.mark.parametrize("named", [False, True])
def test_on_policy_the_gradient_is_reinforce(objective: str, named: bool):
    """Testable claim: at a ratio of 1 all of them are A · grad log p under their weights."""
    given = case(30, masked=0)
    logps = linear_logprob(*(given[k] for k in ("hidden", "weight", "labels"))).logps
    given |= {"old_logps": logps if named else None, "objective": objective, "ref_logps": None}
    got = outcome(linear_policy_loss, given)
    assert torch.equal(got[1], logps) and got[4] == got[5] == 0
    if objective == "clip":
        torch.testing.assert_close(got[0], -(given["weights"] * given["advantages"]).sum(), **EXACT)
    hidden, weight = (given[name].clone().requires_grad_() for name in ("hidden", "weight"))
    logps = linear_logprob(hidden, weight, given["labels"]).logps
    (-1.7 * (given["weights"] * given["advantages"] * logps).sum()).backward()
    torch.testing.assert_close(got[-2], hidden.grad, **EXACT)
    torch.testing.assert_close(got[-1], weight.grad, **EXACT)


@pytest.mark.parametrize("objective", ["clip", "cispo"])
def test_without_an_advantage_nothing_is_clipped_and_nothing_moves(objective: str):
    given = case(50) | {"objective": objective}
    given["advantages"] = torch.zeros(50)
    got = outcome(linear_policy_loss, given)
    assert got[0] == got[4] == got[5] == 0
    assert not got[-2].any() and not got[-1].any()


def test_clip_by_hand():
    # One token, two logits of which only the first moves: p = e^x / (e^x + 1), A and o given.
    def slope(x: float, old: float, advantage: float, **settings) -> tuple[float, float]:
        hidden = torch.tensor([[x]], dtype=torch.float64, requires_grad=True)
        found = linear_policy_loss(
            hidden,
            torch.tensor([[1.0], [0.0]], dtype=torch.float64),
            torch.tensor([0]),
            old_logps=torch.tensor([old]).log(),
            advantages=torch.tensor([advantage]),
            weights=torch.ones(1),
            **settings,
        )
        found.total.backward()
        return float(found.total.detach()), float(hidden.grad)

    # p = 1/2, d lp / dx = 1/2. r = 2: held at 1.2 upwards, free downwards.
    assert slope(0.0, 0.25, 1.0) == pytest.approx((-1.2, 0.0))
    assert slope(0.0, 0.25, -1.0) == pytest.approx((2.0, 1.0))
    # r = 5/8: free upwards, held at 0.8 downwards.
    assert slope(0.0, 0.8, 1.0) == pytest.approx((-0.625, -0.3125))
    assert slope(0.0, 0.8, -1.0) == pytest.approx((0.8, 0.0))
    # A looser bound holds no longer.
    assert slope(0.0, 0.25, 1.0, clip_high=1.5) == pytest.approx((-2.0, -1.0))
    # cispo keeps the gradient at the held ratio: 1.2 · 1/2, and lp = -ln 2.
    assert slope(0.0, 0.25, 1.0, objective="cispo") == pytest.approx((1.2 * 0.693147180, -0.6))
    assert slope(0.0, 0.8, 1.0, objective="cispo")[1] == pytest.approx(-0.4)
    assert slope(0.0, 0.8, 1.0, objective="cispo", clip_low=1.0)[1] == pytest.approx(-0.3125)


def test_a_masked_row_counts_for_nothing_whatever_it_holds():
    given = case(30)
    kept = given["labels"] != IGNORE_INDEX
    alone = {n: t if n == "weight" else t[kept] for n, t in given.items()}
    settings = {"kl_weight": 0.1, "entropy_weight": 0.1}
    got = outcome(linear_policy_loss, given | settings)
    expected = outcome(linear_policy_loss, alone | settings)
    assert not got[-2][~kept].any() and not got[1][~kept].any() and not got[2][~kept].any()
    got[1], got[2], got[-2] = got[1][kept], got[2][kept], got[-2][kept]
    for a, b in zip(got, expected, strict=True):
        torch.testing.assert_close(a, b, **EXACT)


def test_micro_batches_add_up_to_the_whole():
    given = case(40)
    whole = outcome(linear_policy_loss, given)
    halves = [
        outcome(linear_policy_loss, {n: t if n == "weight" else t[part] for n, t in given.items()})
        for part in (slice(0, 13), slice(13, 40))
    ]
    for place in (0, 3, 4, 5, 6, -1):
        torch.testing.assert_close(halves[0][place] + halves[1][place], whole[place], **EXACT)


def test_autocast_makes_the_product_in_bf16_and_the_rest_in_fp32():
    given = {n: t.float() if t.is_floating_point() else t for n, t in case(63, masked=0).items()}
    settings = {"kl_weight": 0.1, "entropy_weight": 0.1, "objective": "cispo", "chunk": 16}
    with torch.autocast("cpu", torch.bfloat16):
        got = outcome(linear_policy_loss, given | settings)
        logps = linear_logprob(*(given[k] for k in ("hidden", "weight", "labels"))).logps
    assert torch.equal(got[1], logps)
    logits = (given["hidden"].bfloat16() @ given["weight"].bfloat16().t()).float()
    torch.testing.assert_close(
        got[1], logits.log_softmax(-1).gather(1, given["labels"][:, None])[:, 0]
    )
    settings.pop("chunk")
    exact = outcome(slow_policy_loss, given | settings)
    for a, b in zip(got[-2:], exact[-2:], strict=True):
        assert a.dtype == torch.float32
        # bf16 holds 8 bits: a few roundings of 2**-8 of the largest value.
        assert (a - b).abs().max() <= 2e-2 * b.abs().max()


def test_only_the_needed_gradients_are_made():
    given = case(9)
    given["weight"].requires_grad_()
    linear_policy_loss(**given).total.backward()
    assert given["hidden"].grad is None and given["weight"].grad is not None
    with torch.no_grad():
        assert not linear_policy_loss(**given).total.requires_grad


def test_what_it_is_compared_with_gets_no_gradient():
    given = case(9, masked=0)
    for tensor in given.values():
        tensor.requires_grad_(tensor.is_floating_point())
    linear_policy_loss(**given, kl_weight=0.1).total.backward()
    assert [name for name, tensor in given.items() if tensor.grad is not None] == [
        "hidden",
        "weight",
    ]
    constants = {name: given[name].detach() for name in ("hidden", "weight")}
    assert not linear_policy_loss(**given | constants).total.requires_grad


def test_a_second_derivative_is_refused_rather_than_wrong():
    given = case(9)
    given["hidden"].requires_grad_()
    total = linear_policy_loss(**given).total
    (first,) = torch.autograd.grad(total, given["hidden"], create_graph=True)
    with pytest.raises(RuntimeError, match="linear_policy_loss_backward"):
        torch.autograd.grad(first.sum(), given["hidden"])


def test_reference_is_twice_differentiable():
    given = case(4, masked=0)
    settings = {"kl_weight": 0.1, "entropy_weight": 0.1, "clip_low": 1.0, "clip_high": 9.0}

    def total(hidden, weight):
        return slow_policy_loss(**given | settings | {"hidden": hidden, "weight": weight}).total

    inputs = [given[name].requires_grad_() for name in ("hidden", "weight")]
    assert torch.autograd.gradgradcheck(total, inputs)


def test_opcheck_and_one_graph():
    given = {n: t.float() if t.is_floating_point() else t for n, t in case(20, masked=0).items()}
    hidden, weight = given["hidden"].requires_grad_(), given["weight"].requires_grad_()
    arguments = (*given.values(), "clip", 0.2, 0.2, 0.1, 0.1, 1.0, 8, torch.float32, "auto")
    torch.library.opcheck(torch.ops.plm.linear_policy_loss.default, (*arguments, True, True))

    def total(hidden, weight):
        more = {"hidden": hidden, "weight": weight, "kl_weight": 0.1, "entropy_weight": 0.1}
        return linear_policy_loss(**given | more).total

    torch.compile(total, fullgraph=True, backend="aot_eager")(hidden, weight).backward()
    got = hidden.grad.clone()
    hidden.grad = None
    total(hidden, weight).backward()
    torch.testing.assert_close(got, hidden.grad, rtol=0, atol=0)


BAD = [
    ({"objective": "ppo"}, "objective='ppo' of linear_policy_loss is not one of: clip, cispo"),
    ({"clip_low": -0.1}, "clip_low=-0.1 of linear_policy_loss must be at least 0: a distance"),
    (
        {"clip_high": float("nan")},
        "clip_high=nan of linear_policy_loss must be at least 0: a distance",
    ),
    (
        {"kl_weight": 0.1, "ref_logps": None},
        "kl_weight=0.1 of linear_policy_loss needs ref_logps; 0 goes without",
    ),
]


@pytest.mark.parametrize("function", [linear_policy_loss, slow_policy_loss])
@pytest.mark.parametrize(("wrong", "words"), BAD)
def test_a_setting_without_a_meaning_is_named(function, wrong: dict, words: str):
    with pytest.raises(ConfigError, match=words):
        function(**case(4) | wrong)


@pytest.mark.parametrize("name", ["old_logps", "advantages", "weights", "ref_logps"])
def test_a_shape_that_does_not_fit_is_named(name: str):
    words = rf"linear_policy_loss: {name} has the shape \(5,\), not \[4\] as hidden \(4, 24\)"
    with pytest.raises(ConfigError, match=words):
        linear_policy_loss(**case(4) | {name: torch.zeros(5)})


def test_temperature_must_be_positive():
    with pytest.raises(ConfigError, match="temperature=0 is not a positive number"):
        linear_policy_loss(**case(4), temperature=0)
