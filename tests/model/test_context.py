import dataclasses

import pytest
import torch

from plm.batch import Batch, LossSum
from plm.model.context import Context
from tests.model.common import packed_context, plain_context


def test_of_a_batch():
    tokens = torch.zeros(1, 3, dtype=torch.int64)
    batch = Batch(
        tokens=tokens,
        labels=tokens,
        positions=torch.tensor([[0, 1, 0]]),
        doc_ids=torch.tensor([[0, 0, 1]]),
        cu_seqlens=torch.tensor([0, 2, 3], dtype=torch.int32),
        tokens_seen=7,
        extras={"weight": tokens},
    )
    context = Context.of(batch, rope_theta=5.0)
    for name in ("positions", "doc_ids", "cu_seqlens", "tokens_seen", "extras"):
        assert getattr(context, name) is getattr(batch, name)
    assert context.rope_theta == 5.0 and context.causal and context.kernels == "auto"


def test_without_documents_there_is_no_mask():
    assert plain_context(2, 5).attention_mask() is None


def test_masks_of_documents():
    context = packed_context(1, (2, 1))
    causal = [[1, 0, 0], [1, 1, 0], [0, 0, 1]]
    assert context.attention_mask().int().tolist() == [[causal]]
    both = [[1, 1, 0], [1, 1, 0], [0, 0, 1]]
    # A block that looks both ways has a context of its own, but shares the tables.
    other = dataclasses.replace(context, causal=False)
    assert other.attention_mask().int().tolist() == [[both]]
    assert context.attention_mask().int().tolist() == [[causal]]
    assert context.attention_mask() is context.attention_mask()


@pytest.mark.parametrize("wide", [torch.float32, torch.float64])
def test_rotary_tables(wide: torch.dtype):
    context = Context(positions=torch.tensor([[0, 100_000]]), wide=wide)
    cos, sin = context.rotary(6, 100_000.0)
    assert cos.shape == sin.shape == (1, 2, 3) and cos.dtype == sin.dtype == wide
    rates = torch.tensor([1.0, 100_000 ** (-1 / 3), 100_000 ** (-2 / 3)], dtype=torch.float64)
    torch.testing.assert_close(cos[0, 1].double(), (100_000 * rates).cos(), rtol=0, atol=1e-7)
    assert context.rotary(6, 100_000.0)[0] is cos
    assert context.rotary(4, 100_000.0)[0].shape == (1, 2, 2)


def test_a_phase_s_base_wins():
    context = Context(positions=torch.arange(9)[None], rope_theta=10.0)
    expected = Context(positions=torch.arange(9)[None]).rotary(4, 10.0)
    torch.testing.assert_close(context.rotary(4, 100_000.0), expected)


def test_adding_a_loss_again_replaces_it():
    context = plain_context(1, 1)
    for value in (1.0, 2.0):
        context.layer, context.part = "layers.0", "mlp"
        context.add_loss("balance", LossSum(torch.tensor(value), torch.tensor(1)))
    context.layer = "layers.1"
    context.add_loss("balance", LossSum(torch.tensor(3.0), torch.tensor(1)))
    found = {name: loss.total.item() for name, loss in context.losses.items()}
    assert found == {"layers.0.mlp.balance": 2.0, "layers.1.mlp.balance": 3.0}
