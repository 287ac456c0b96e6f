"""What every mixer must hold, whoever wrote it."""

from collections.abc import Iterator
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from plm.errors import ConfigError
from plm.rollout.generate import generate
from tests.model.common import (
    DOCUMENTS,
    SIZES,
    draw,
    logits_of,
    packed_context,
    plain_context,
    spans,
    stepped_logits,
)

STATE_KINDS = {"key_value", "latent", "recurrent", "whole_history"}


def tensors(state: Any) -> Iterator[Tensor]:
    """All tensors of a decoding state, whatever it is made of."""
    if isinstance(state, Tensor):
        yield state
    elif isinstance(state, dict):
        for value in state.values():
            yield from tensors(value)
    elif isinstance(state, list | tuple):
        for value in state:
            yield from tensors(value)


def check_declares(model: nn.Module) -> None:
    mixer = model.layers[0].self_attn
    assert mixer.state_kind in STATE_KINDS
    assert isinstance(mixer.isolates_documents, bool) and isinstance(mixer.causal, bool)
    assert mixer.flops_per_token(8) > 0


def check_stepping(model: nn.Module) -> None:
    """Steps equal the forward: after a prefill of one or more, in fp64 and in fp32."""
    tokens = draw(3, 14)
    for dtype, tolerance in ((torch.float64, 1e-10), (torch.float32, 1e-4)):
        model = model.to(dtype)
        expected = logits_of(model, tokens)
        for prefill in (1, 6, 13):
            found, _ = stepped_logits(model, tokens, prefill)
            kept = expected[:, prefill - 1 :]
            torch.testing.assert_close(found, kept, rtol=tolerance, atol=tolerance)
            if dtype == torch.float64:
                assert torch.equal(found.argmax(-1), kept.argmax(-1))


def check_chunks(model: nn.Module) -> None:
    """A second prefill goes on where the first ended."""
    tokens = draw(2, 11)
    states = model.init_state(2, 11, "cpu", torch.float64)
    with torch.no_grad():
        model.step(tokens[:, :4], states, plain_context(2, 4))
        found = model.step(tokens[:, 4:], states, plain_context(2, 7, start=4))
    torch.testing.assert_close(found, logits_of(model, tokens)[:, -1], rtol=1e-10, atol=1e-10)


def check_reorder(model: nn.Module) -> None:
    """After a reorder each row goes on as the row it was taken from."""
    tokens, index = draw(3, 9), torch.tensor([2, 0, 2])
    with torch.no_grad():
        _, states = stepped_logits(model, tokens, 4)
        model.reorder(states, index)
        new = draw(3, 1, seed=5)
        found = model.step(new, states, plain_context(3, 1, start=9))
    expected = logits_of(model, torch.cat((tokens[index], new), dim=1))[:, -1]
    torch.testing.assert_close(found, expected, rtol=1e-10, atol=1e-10)


def check_causal(model: nn.Module) -> None:
    assert model.layers[0].self_attn.causal
    tokens = draw(2, 10)
    changed = tokens.clone()
    changed[:, 5] = (changed[:, 5] + 1) % SIZES["vocab_size"]
    before, after = logits_of(model, tokens), logits_of(model, changed)
    assert torch.equal(before[:, :5], after[:, :5])
    assert not torch.allclose(before[:, 6:], after[:, 6:])


def check_documents(model: nn.Module) -> None:
    """A boundary resets, or a window of several documents is refused."""
    tokens = draw(2, sum(DOCUMENTS))
    if not model.layers[0].self_attn.isolates_documents:
        with pytest.raises(ConfigError, match="cannot keep the documents of a window apart"):
            logits_of(model, tokens, packed_context(2))
        return
    whole = logits_of(model, tokens, packed_context(2))
    for span in spans():
        alone = logits_of(model, tokens[:, span])
        torch.testing.assert_close(whole[:, span], alone, rtol=1e-10, atol=1e-10)


def check_state_bytes(model: nn.Module) -> None:
    """The bytes answered are those held, for one row, at any length and in any dtype."""
    for length, dtype in ((5, torch.float32), (9, torch.bfloat16), (9, torch.float64)):
        states = model.init_state(3, length, "cpu", dtype)
        held = sum(t.numel() * t.element_size() for t in tensors(states))
        assert held == 3 * model.state_bytes(length, dtype.itemsize)
    assert model.state_bytes(9) == model.state_bytes(9, 2)


def check_generate(model: nn.Module) -> None:
    """Greedy generation by steps is that by full forwards."""
    prompts = tokens = draw(2, 3)
    for _ in range(8):
        tokens = torch.cat((tokens, logits_of(model, tokens)[:, -1:].argmax(-1)), dim=1)
    assert torch.equal(generate(model, prompts, 8), tokens[:, 3:])


CHECKS = [
    check_declares,
    check_stepping,
    check_chunks,
    check_reorder,
    check_causal,
    check_documents,
    check_state_bytes,
    check_generate,
]
