from functools import partial

import pytest
import torch

from plm.aggregation.sequence import sequence
from plm.aggregation.token import token
from plm.errors import ConfigError
from plm.policy.gspo import gspo
from tests.policy.common import at, gradients, lengths_of, made, slopes, total


def of_sequences(tokens, low: float, high: float):
    """The paper's equation, rollout by rollout: a value of each, and its ratio."""
    found = []
    for number in range(tokens.number):
        kept = tokens.rollout == number
        ratio = (tokens.logps[kept] - tokens.old_logps[kept]).mean().exp()
        worth = tokens.advantages[kept][0]
        found.append(-torch.minimum(ratio * worth, ratio.clamp(1 - low, 1 + high) * worth))
    return torch.stack(found)


@pytest.mark.parametrize("aggregation", [sequence, token])
@pytest.mark.parametrize("bounds", [(0.9, 9.0), (0.05, 0.1)])
def test_as_the_form_for_sequences(bounds, aggregation):
    drawn = made([4, 1, 7, 3, 2, 5])
    tokens = drawn.tokens
    lengths = lengths_of(tokens)
    weights = aggregation(lengths, longest=9)
    mine = total(gspo(tokens, clip_low=bounds[0], clip_high=bounds[1]), tokens, weights)
    theirs = (of_sequences(tokens, *bounds) * weights * lengths).sum()
    assert mine.item() == pytest.approx(theirs.item(), abs=1e-14)
    ours, its = gradients(mine, theirs, by=drawn.logits)
    assert ours[0].any()
    torch.testing.assert_close(ours, its, rtol=0, atol=1e-15)


def test_all_tokens_of_a_rollout_are_held_together():
    loss = partial(gspo, clip_low=0.1, clip_high=0.2)
    # The geometric mean is 2, although the first token's ratio lies within the bounds.
    tokens = at([1.0, 4.0], [1.0, 1.0])
    assert loss(tokens).above.all() and slopes(loss, tokens) == [0, 0]
    # Here it is 1, and neither is held.
    tokens = at([0.25, 4.0], [1.0, 1.0])
    assert not loss(tokens).above.any()
    assert slopes(loss, tokens) == pytest.approx([-1, -1], abs=1e-14)
    assert loss(at([0.5, 0.5], [-1.0, -1.0])).below.all()


def test_advantages_of_tokens_stay_their_own():
    tokens = at([1.0, 1.0], [3.0, -1.0])
    assert slopes(gspo, tokens) == [-3, 1]


def test_errors():
    with pytest.raises(ConfigError, match=r"policy\.clip_low=-1 must be a number from 0 on"):
        gspo(at([1.0], [1.0]), clip_low=-1)
