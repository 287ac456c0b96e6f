"""Scores of ragged batches are those of each row by itself, from full forwards."""

import math

import pytest
import torch

from plm.evaluation.scoring import score
from tests.model.common import logits_of


def by_itself(model, ids: list[int], n: int) -> tuple[torch.Tensor, torch.Tensor]:
    logits = logits_of(model, torch.tensor([ids[:-1]]))[0, -n:]
    wanted = torch.tensor(ids[-n:])
    logps = logits.log_softmax(-1).gather(1, wanted[:, None])[:, 0]
    return logps, logits.argmax(-1) == wanted


def test_ragged_rows_equal_single_forwards(subject):
    draw = torch.Generator().manual_seed(0)
    rows = []
    for length in (2, 9, 33, 3, 21, 2, 14):
        ids = torch.randint(0, 300, (length,), generator=draw).tolist()
        rows.append((ids, 1 + length // 2 if length > 2 else 1))
    # One that greedy decoding would write.
    best = logits_of(subject.model, torch.tensor([rows[1][0][:-1]]))[0, -1].argmax().item()
    rows[1] = ([*rows[1][0][:-1], best], 1)
    for found, (ids, n) in zip(score(subject, rows), rows, strict=True):
        logps, greedy = by_itself(subject.model, ids, n)
        assert found.logps.shape == (n,) and found.logps.dtype == torch.float64
        torch.testing.assert_close(found.logps, logps, rtol=1e-9, atol=1e-9)
        assert torch.equal(found.greedy, greedy)
    assert score(subject, rows)[1].greedy.all()


def test_width_pads_without_changing_anything(subject):
    rows = [([1, 2, 3], 2), ([5, 6, 7, 8], 1)]
    for narrow, wide in zip(score(subject, rows), score(subject, rows, width=40), strict=True):
        torch.testing.assert_close(narrow.logps, wide.logps, rtol=1e-9, atol=1e-9)


def test_nothing_to_score(subject):
    assert score(subject, []) == []


def test_a_uniform_model_gives_the_logarithm_of_the_vocabulary(subject):
    with torch.no_grad():
        for parameter in subject.model.embed_tokens.parameters():
            parameter.zero_()
    (found,) = score(subject, [([1, 2, 3], 2)])
    assert found.logps.tolist() == pytest.approx([-math.log(300)] * 2)
