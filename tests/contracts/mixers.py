"""What every mixer must hold, whoever wrote it."""

from collections.abc import Iterator
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from plm.errors import ConfigError
from plm.model.context import Context
from plm.rollout.engine import Engine
from plm.rollout.generate import generate
from plm.rollout.sampling import Sampling
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
from tests.rollout.common import naive

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


def check_rows_stand_where_they_stand(model: nn.Module) -> None:
    """In a step of one position each row goes on at its own, whatever the others do."""
    tokens, lengths = draw(3, 9), [4, 1, 6]
    states = model.init_state(3, 12, "cpu", torch.float64)
    with torch.no_grad():
        for row, length in enumerate(lengths):
            alone = model.init_state(1, length, "cpu", torch.float64)
            model.step(tokens[row : row + 1, :length], alone, plain_context(1, length))
            model.place(states, torch.tensor([row]), alone, torch.tensor([0]))
        held = [id(tensor) for tensor in tensors(states)]
        for ahead in range(3):
            place = torch.tensor(lengths)[:, None] + ahead
            found = model.step(tokens.gather(1, place), states, Context(positions=place))
            for row, length in enumerate(lengths):
                whole = logits_of(model, tokens[row : row + 1, : length + ahead + 1])[:, -1]
                torch.testing.assert_close(found[row : row + 1], whole, rtol=1e-10, atol=1e-10)
    # Written into, not replaced: others hold on to the tensors.
    assert [id(tensor) for tensor in tensors(states)] == held


def check_ragged_prompts(model: nn.Module) -> None:
    """Where a mixer says so, prompts padded on the right are taken in as they are alone."""
    if not model.ragged:
        return
    tokens, lengths = draw(3, 7), torch.tensor([7, 2, 5])
    states = model.init_state(3, 9, "cpu", torch.float64)
    with torch.no_grad():
        found = model.step(tokens, states, plain_context(3, 7), last=lengths - 1)
        new, place = draw(3, 1, seed=4), lengths[:, None]
        after = model.step(new, states, Context(positions=place))
    for row, length in enumerate(lengths.tolist()):
        alone = tokens[row : row + 1, :length]
        expected = logits_of(model, torch.cat((alone, new[row : row + 1]), dim=1))
        torch.testing.assert_close(found[row], expected[0, -2], rtol=1e-10, atol=1e-10)
        torch.testing.assert_close(after[row], expected[0, -1], rtol=1e-10, atol=1e-10)


def check_place(model: nn.Module) -> None:
    """Rows are put in the place of others, several times over, from a shorter state and from
    itself; the first rows are a state of their own in the same memory."""
    prompt, other, new = draw(2, 5), draw(4, 8, seed=1), draw(4, 1, seed=2)
    with torch.no_grad():
        _, states = stepped_logits(model, other, 8)
        shorter = model.init_state(2, 5, "cpu", torch.float64)
        model.step(prompt, shorter, plain_context(2, 5))
        model.place(states, torch.tensor([3, 1]), shorter, torch.tensor([1, 1]))
        model.place(states, torch.tensor([0]), states, torch.tensor([2]))
        place = torch.tensor([[8], [5], [8], [5]])
        first = model.step(new[:2], model.first(states, 2), Context(positions=place[:2]))
        model.step(new, states, Context(positions=place))
        second = model.step(new, states, Context(positions=place + 1))
    rows = [other[2:3], prompt[1:2], other[2:3], prompt[1:2]]
    for index, row in enumerate(rows):
        # The first two took `new` in before: a state by position takes it in again unchanged.
        if index < 2:
            once = logits_of(model, torch.cat((row, new[index : index + 1]), dim=1))[0, -1]
            torch.testing.assert_close(first[index], once, rtol=1e-10, atol=1e-10)
        if index >= 2:
            twice = torch.cat((row, *[new[index : index + 1]] * 2), dim=1)
            expected = logits_of(model, twice)[0, -1]
            torch.testing.assert_close(second[index], expected, rtol=1e-10, atol=1e-10)


def check_engine(model: nn.Module) -> None:
    """Ragged prompts in fewer places than there are rows, groups included."""
    prompts = [draw(length, seed=length).tolist() for length in (3, 6, 3, 1)]
    engine = Engine(model, rows=3)
    found = engine.generate(prompts, Sampling(6), group=2)
    for index, prompt in enumerate(prompts):
        expected, _ = naive(model, prompt, 6)
        assert [one.tokens for one in found[2 * index : 2 * index + 2]] == [expected] * 2
    sampling = Sampling(6, temperature=1.0)
    seeds = [3, 4, 5, 6]
    many = engine.generate(prompts, sampling, seeds=seeds)
    for one, prompt, seed in zip(many, prompts, seeds, strict=True):
        assert engine.generate([prompt], sampling, seeds=[seed])[0].tokens == one.tokens


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
    check_rows_stand_where_they_stand,
    check_ragged_prompts,
    check_place,
    check_engine,
    check_causal,
    check_documents,
    check_state_bytes,
    check_generate,
]
