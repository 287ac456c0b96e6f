import pytest
import torch

from plm.model.attention import common
from plm.model.attention.common import SoftmaxAttention, Stateful, keep
from plm.model.context import Context
from tests.model.common import plain_context


def heads(key: int, value: int, length: int = 7):
    q = torch.randn(2, 4, length, key, dtype=torch.float64)
    k = torch.randn(2, 2, length, key, dtype=torch.float64)
    v = torch.randn(2, 2, length, value, dtype=torch.float64)
    return q, k, v


@pytest.mark.parametrize("masked", ["causal", "none", "mask"])
@pytest.mark.parametrize(("key", "value"), [(6, 4), (4, 4), (4, 6)])
def test_both_ways_agree(key: int, value: int, masked: str, monkeypatch):
    # Padding of values, which pays from long windows on, must change nothing either.
    monkeypatch.setattr(common, "PAD_VALUES_FROM", 1)
    mask = torch.rand(2, 1, 7, 7) < 0.5
    mask |= torch.eye(7, dtype=torch.bool)
    settings = {"scale": 0.3, "causal": masked == "causal"}
    found = []
    for kernels in ("auto", "reference"):
        context = plain_context(2, 7)
        context.kernels = kernels
        torch.manual_seed(0)
        found.append(
            SoftmaxAttention()(
                *heads(key, value),
                context=context,
                mask=mask if masked == "mask" else None,
                **settings,
            )
        )
    assert found[0].shape == (2, 4, 7, value)
    torch.testing.assert_close(*found, rtol=1e-12, atol=1e-12)


def test_another_product_is_used():
    roles = []

    def product(left: torch.Tensor, right: torch.Tensor, role: str) -> torch.Tensor:
        roles.append((role, tuple(left.shape), tuple(right.shape)))
        return left @ right

    SoftmaxAttention(product)(*heads(6, 4), scale=1.0, context=plain_context(2, 7))
    assert roles == [
        ("scores", (2, 4, 7, 6), (2, 4, 6, 7)),
        ("values", (2, 4, 7, 7), (2, 4, 7, 4)),
    ]


def test_step_mask():
    context = Context(positions=torch.tensor([[2, 3], [0, 1]]))
    assert context.reached() == 4
    found = context.step_mask()[:, 0].int().tolist()
    assert found == [[[1, 1, 1, 0], [1, 1, 1, 1]], [[1, 0, 0, 0], [1, 1, 0, 0]]]


def test_new_positions_go_to_their_places():
    cache = torch.full((2, 5, 1), 9.0)
    first = torch.tensor([[1.0, 2], [3, 4]])[..., None]
    assert keep(cache, first, plain_context(2, 2))
    later = Context(positions=torch.tensor([[2], [1]]))
    assert not keep(cache, torch.tensor([[5.0], [6]])[..., None], later)
    assert cache[..., 0].tolist() == [[1, 2, 5, 9, 9], [3, 6, 9, 9, 9]]


def test_rows_of_any_state_are_placed_and_reordered():
    def state(rows: int, length: int, start: int) -> dict:
        numbers = torch.arange(start, start + rows * length).float().view(rows, length)
        return {"a": [numbers, {"b": numbers[:, :1] * 10}]}

    whole, part = state(3, 4, 0), state(2, 2, 100)
    mixer, index = Stateful(), torch.tensor([1, 1])
    mixer.place(whole, torch.tensor([2, 0]), part, index)
    assert whole["a"][0].tolist() == [[102, 103, 2, 3], [4, 5, 6, 7], [102, 103, 10, 11]]
    assert whole["a"][1]["b"].tolist() == [[1020], [40], [1020]]
    mixer.reorder(whole, torch.tensor([1, 0]))
    assert whole["a"][0].tolist() == [[4, 5, 6, 7], [102, 103, 2, 3]]
    mixer.place(whole, torch.tensor([0]), whole, torch.tensor([1]))
    assert whole["a"][1]["b"].tolist() == [[1020], [1020]]
