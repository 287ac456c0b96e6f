import pytest
import torch
import torch.nn.functional as F
from torch import nn

from plm.errors import ConfigError
from plm.model.embedding.untied import Untied
from tests.model.common import SIZES, draw, plain_context, tiny

UNTIED = "model/embedding=untied"


def test_two_tables():
    model = tiny(UNTIED)
    table, head = model.embed_tokens.weight, model.embed_tokens.head_weight
    assert not model.embed_tokens.tied and table.shape == head.shape
    assert not torch.equal(table, head)
    out = model(draw(1, 3), context=plain_context(1, 3))
    assert torch.equal(out.logits, F.linear(out.hidden, head))
    out.logits.sum().backward()
    unread = sorted(set(range(SIZES["vocab_size"])) - set(draw(1, 3)[0].tolist()))
    assert not table.grad[unread].any() and head.grad[unread].any()


def test_number_of_parameters():
    tables = 2 * SIZES["vocab_size"] * SIZES["hidden_size"]
    model = tiny(UNTIED)
    assert model.parameters_of() - model.parameters_of(embedding=False) == tables


def test_a_head_without_a_weight_is_refused():
    with pytest.raises(ConfigError, match=r"model\.linear gives role head no weight"):
        Untied(5, 4, linear=lambda *_: nn.Identity())
