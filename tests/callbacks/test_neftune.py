"""NEFTune: as much noise as the paper says, by the document's length, the same on any layout."""

from pathlib import Path
from types import SimpleNamespace

import pytest
import torch

from plm.batch import Batch
from plm.callbacks.neftune import NEFTune, amplitudes
from plm.errors import ConfigError
from tests.model.common import SIZES, draw, tiny

DOCS = torch.tensor([[0, 0, 0, 1, 1, 1, 1, 1], [0, 0, 0, 0, 0, 0, 0, 0]])


def batch(tokens: torch.Tensor, doc_ids: torch.Tensor | None, first_row: int = 0) -> Batch:
    positions = torch.arange(tokens.shape[1]).expand_as(tokens)
    return Batch(tokens, tokens, positions, doc_ids, step=3, first_row=first_row)


def embedded(
    alpha: float, given: Batch, trained: bool = True, training: bool = True
) -> torch.Tensor:
    """What the layers get."""
    model, callback, seen = tiny(dtype=torch.float32), NEFTune(Path(), alpha=alpha), []
    model.train(training)
    stage = SimpleNamespace(model=model, seed=5)
    callback.on_train_start(None, stage)
    model.embedded.register_forward_hook(lambda tap, inputs, out: seen.append(out))
    if trained:
        callback.on_train_batch_start(None, stage, given, 0)
    from plm.model.context import Context

    model(given.tokens, context=Context.of(given))
    return seen[0].detach()


def test_amplitudes_by_hand():
    found = amplitudes(batch(DOCS, DOCS), 16, 2.0)
    expected = torch.tensor([[3] * 3 + [5] * 5, [8] * 8], dtype=torch.float32)
    torch.testing.assert_close(found, 2.0 / (expected * 16).sqrt())
    torch.testing.assert_close(
        amplitudes(batch(DOCS, None), 16, 2.0), torch.full((2, 8), 2.0 / 128**0.5)
    )


def test_the_noise_is_uniform_within_its_bounds():
    tokens = draw(2, 8)
    given = batch(tokens, DOCS)
    noise = embedded(5.0, given) - embedded(0.0, given)
    bound = amplitudes(given, SIZES["hidden_size"], 5.0)[..., None]
    share = (noise / bound).flatten()
    assert share.abs().max() <= 1 + 1e-5 and share.abs().max() > 0.95
    # Uniform on [-1, 1]: mean 0, variance 1/3; four standard errors.
    assert abs(share.mean()) < 4 * (1 / 3 / len(share)) ** 0.5
    assert abs(share.var() - 1 / 3) < 4 * (4 / 45 / len(share)) ** 0.5


def test_a_row_has_its_noise_in_any_micro_batch():
    tokens = draw(2, 8)
    whole = embedded(5.0, batch(tokens, DOCS))
    alone = embedded(5.0, batch(tokens[1:], DOCS[1:], first_row=1))
    torch.testing.assert_close(whole[1:], alone, rtol=0, atol=0)
    assert not torch.equal(whole[:1], embedded(5.0, batch(tokens[:1], DOCS[:1], first_row=1)))


def test_evaluation_has_none():
    given = batch(draw(2, 8), DOCS)
    assert torch.equal(embedded(5.0, given, trained=False), embedded(0.0, given))
    assert torch.equal(embedded(5.0, given, training=False), embedded(0.0, given))


def test_a_negative_alpha_is_refused():
    with pytest.raises(ConfigError, match=r"callbacks.neftune.alpha=-1.0 is negative"):
        NEFTune(Path(), alpha=-1.0)
