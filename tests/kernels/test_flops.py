"""torch's FLOP counter sees through the ops: as many as in plain torch."""

import pytest
import torch
from torch.utils.flop_counter import FlopCounterMode

from plm import kernels
from plm.kernels import reference

N, D, V, F = 6, 16, 40, 48
LABELS = torch.randint(V, (N,))


def leaf(*shape: int) -> torch.Tensor:
    return torch.randn(shape, requires_grad=True)


def policy(module, hidden, weight):
    rows = {name: torch.randn(N) for name in ("old_logps", "advantages", "weights")}
    return module.linear_policy_loss(hidden, weight, LABELS, **rows).total


CASES = {
    "cross_entropy": (
        lambda m, h, w: m.linear_cross_entropy(h, w, LABELS).total, [(N, D), (V, D)]
    ),
    "logprob": (lambda m, h, w: m.linear_logprob(h, w, LABELS).logps.sum(), [(N, D), (V, D)]),
    "loss": (
        lambda m, h, w: m.linear_loss(h, w, LABELS, lambda lp, en, span: lp).loss, [(N, D), (V, D)]
    ),
    "policy": (policy, [(N, D), (V, D)]),
    "mlp": (lambda m, x, u, d: m.relu2_mlp(x, u, d).sum(), [(2, 3, D), (F, D), (D, F)]),
}  # fmt: skip


def counted(call, module, inputs) -> tuple[int, int]:
    counter = FlopCounterMode(display=False)
    with counter:
        out = call(module, *inputs)
        forward = counter.get_total_flops()
        out.backward()
    return forward, counter.get_total_flops()


@pytest.mark.parametrize("name", CASES)
def test_as_in_plain_torch(name: str):
    call, shapes = CASES[name]
    inputs = [leaf(*shape) for shape in shapes]
    ours, plain = (counted(call, module, inputs)[1] for module in (kernels, reference))
    assert ours == plain > 0


def test_only_the_gradients_that_are_made_count():
    x, up, down = leaf(3, D), torch.randn(F, D), torch.randn(D, F)
    forward, both = counted(CASES["mlp"][0], kernels, (x, up, down))
    assert both == 2 * forward == 8 * 3 * D * F


def test_attention(place: str):
    b, t, h, n, r, u = 1, 5, 2, 16, 16, 16
    shapes = (b, t, h, n + r), (b, t, h, n + u), (b, t, r)
    inputs = [torch.randn(s, device=place, requires_grad=True) for s in shapes]
    tables = torch.ones(2, b, t, r // 2, device=place)

    def call(module, *parts):
        return module.mla_attention(*parts, *tables, scale=1.0, form="triton").sum()

    forward, both = counted(call, kernels, inputs)
    assert forward == 2 * b * h * t * t * (n + r + u)
    assert both - forward == 2 * b * h * t * t * (3 * (n + r) + 2 * u)


def test_decoding():
    b, h, c, r, s = 2, 3, 32, 16, 7
    inputs = (
        torch.randn(b, h, c), torch.randn(b, h, r), torch.randn(b, s, c), torch.randn(b, s, r),
        torch.full((b,), s, dtype=torch.int32),
    )  # fmt: skip
    counter = FlopCounterMode(display=False)
    with counter:
        kernels.mla_decode(*inputs, scale=1.0)
    assert counter.get_total_flops() == 2 * b * h * s * (2 * c + r)
