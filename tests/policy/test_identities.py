"""How the methods of the family are the same, and where they part."""

from pathlib import Path

import pytest
import torch
from omegaconf import OmegaConf

from plm.aggregation.constant import constant
from plm.aggregation.sequence import sequence
from plm.aggregation.sequence_sum import sequence_sum
from plm.aggregation.token import token
from plm.config import build
from plm.policy.clip import clip
from plm.policy.reinforce import reinforce
from tests.policy.common import gradients, lengths_of, made, part, total

POLICIES = [
    path
    for path in sorted((Path(__file__).parents[2] / "configs/policy").glob("*.yaml"))
    if path.stem != "none"
]
LENGTHS, LONGEST = [4, 1, 7, 3], 9


@pytest.fixture(params=POLICIES, ids=lambda path: path.stem)
def loss(request):
    return build(OmegaConf.load(request.param))


def gradient(drawn, loss, weights):
    return gradients(total(loss(drawn.tokens), drawn.tokens, weights), by=drawn.logits)[0][0]


@pytest.mark.parametrize(
    ("aggregation", "share"),
    [
        (sequence, lambda length: 1 / (4 * length)),
        (token, lambda length: 1 / 15),
        (constant, lambda length: 1 / (4 * 9)),
        (sequence_sum, lambda length: 1 / 4),
    ],
    ids=["sequence", "token", "constant", "sequence_sum"],
)
def test_at_ratio_1_all_are_reinforce(loss, aggregation, share):
    """With a weight of 1 / (B·length), 1 / N, 1 / (B·longest) or 1 / B a token."""
    drawn = made(LENGTHS, moved=0.0)
    found = gradient(drawn, loss, aggregation(torch.tensor(LENGTHS), longest=LONGEST))
    tokens = drawn.tokens
    weights = torch.tensor([share(length) for length in LENGTHS], dtype=torch.float64)
    plain = (-weights[tokens.rollout] * tokens.advantages * tokens.logps).sum()
    (expected,) = torch.autograd.grad(plain, drawn.logits)
    assert expected.any()
    torch.testing.assert_close(found, expected, rtol=0, atol=1e-16)


def test_equal_lengths_make_grpo_and_dapo_the_same():
    drawn, lengths = made([5] * 4), torch.tensor([5] * 4)
    grpo, dapo, dr_grpo = (
        gradient(drawn, clip, each(lengths, longest=LONGEST))
        for each in (sequence, token, constant)
    )
    assert torch.equal(grpo, dapo)
    torch.testing.assert_close(dr_grpo, dapo * 20 / (4 * LONGEST), rtol=0, atol=1e-17)
    drawn, lengths = made(LENGTHS), torch.tensor(LENGTHS)
    grpo, dapo = (
        gradient(drawn, clip, each(lengths, longest=LONGEST)) for each in (sequence, token)
    )
    assert (grpo - dapo).abs().max() > 0.01


@pytest.mark.parametrize("aggregation", [sequence, token, constant, sequence_sum])
def test_micro_batches_need_the_weights_of_the_whole(loss, aggregation):
    drawn = made(LENGTHS)
    weights = aggregation(lengths_of(drawn.tokens), longest=LONGEST)
    whole = gradient(drawn, loss, weights)
    by_all = by_own = 0.0
    for first, last in ((0, 1), (1, 4)):
        piece = part(drawn.tokens, first, last)
        own = aggregation(lengths_of(piece), longest=LONGEST) / 2
        found = loss(piece)
        by_all = by_all + total(found, piece, weights[first:last])
        by_own = by_own + total(found, piece, own)
    (right,), (wrong,) = gradients(by_all, by_own, by=drawn.logits)
    torch.testing.assert_close(right, whole, rtol=0, atol=1e-16)
    assert (wrong - whole).abs().max() > 1e-3


@pytest.mark.parametrize(
    "path", [p for p in POLICIES if p.stem != "reinforce"], ids=lambda p: p.stem
)
def test_after_a_step_they_part(path):
    drawn, weights = made(LENGTHS), torch.ones(4, dtype=torch.float64)
    found = gradient(drawn, build(OmegaConf.load(path)), weights)
    assert (found - gradient(drawn, reinforce, weights)).abs().max() > 0.01
