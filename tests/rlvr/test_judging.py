"""Advantages of rollouts whose sources are rewarded for different things."""

import math
from functools import partial

import pytest
import torch

from plm.advantage.common import Scored
from plm.advantage.decoupled import decoupled
from plm.advantage.gae import gae
from plm.advantage.group import group
from plm.divergence.k1 import k1
from plm.rlvr.judging import judge, kinds_of
from plm.rlvr.rollouts import Drawn, Rollout
from tests.rlvr.made import prompt_set, right, rollout, short, source_of

PROMPTS = prompt_set(
    source_of("sums", 3),
    source_of("words", 3, {"right": right, "short": short}, {"right": 1.0, "short": 0.25}),
    source_of("unused", 3),
)


def _one(source: str, number: int, **rewards: float) -> Rollout:
    weights = PROMPTS.sources[source].weights
    total = sum(weights[kind] * value for kind, value in rewards.items())
    return rollout(
        [1], [2, 3, 4], source=source, number=number, rewards=rewards, reward=total,
        learn=[1, 0, 1], old=[-1.0, 0.0, -2.0], reference=[-1.5, -9.0, -1.75]
    )  # fmt: skip


def _drawn() -> Drawn:
    return Drawn(
        [
            _one("words", 0, right=1.0, short=0.5),
            _one("words", 0, right=0.0, short=1.0),
            _one("sums", 1, right=1.0),
            _one("sums", 1, right=1.0),
            _one("sums", 2, right=0.0),
            _one("sums", 2, right=1.0),
        ],
        2,
    )


def test_each_source_has_columns_of_its_own() -> None:
    seen: list[Scored] = []

    def looks(scored: Scored) -> torch.Tensor:
        seen.append(scored)
        return torch.arange(6.0)

    drawn = _drawn()
    judge(drawn, PROMPTS, looks)
    (scored,) = seen
    nan = math.nan
    expected = [
        [nan, 1, 0.5],
        [nan, 0, 1],
        [1, nan, nan],
        [1, nan, nan],
        [0, nan, nan],
        [1, nan, nan],
    ]
    torch.testing.assert_close(
        scored.kinds, torch.tensor(expected, dtype=torch.float64), equal_nan=True
    )
    assert scored.weights.tolist() == [1.0, 1.0, 0.25]
    assert scored.groups.tolist() == [0, 0, 1, 1, 2, 2]
    assert [one.advantage for one in drawn.rollouts] == [0, 1, 2, 3, 4, 5]


def test_kinds_are_those_of_the_sources_that_occur() -> None:
    assert kinds_of(_drawn().rollouts, PROMPTS) == {
        ("sums", "right"): 1.0, ("words", "right"): 1.0, ("words", "short"): 0.25
    }  # fmt: skip


def test_advantages_by_hand() -> None:
    drawn = _drawn()
    judge(drawn, PROMPTS, lambda scored: group(scored, eps=1e-9))
    # Of two different rewards the deviation is their distance over the root of 2.
    half = 1 / math.sqrt(2)
    expected = [half, -half, 0, 0, -half, half]
    assert [one.advantage for one in drawn.rollouts] == pytest.approx(expected, rel=1e-6)
    assert [one.advantage for one in drawn.rollouts[2:4]] == [0, 0]


def test_kinds_can_be_normalised_apart() -> None:
    drawn = _drawn()
    judge(drawn, PROMPTS, lambda scored: decoupled(scored, eps=1e-9))
    first, second = (one.advantage for one in drawn.rollouts[:2])
    third, fourth = (one.advantage for one in drawn.rollouts[4:])
    # `right` and `short` of the words pull apart, the second with a quarter of the weight.
    assert first == -second and first == pytest.approx(0.75 * fourth) and third == -fourth


def test_a_divergence_is_taken_from_the_reward_over_the_policys_own_tokens() -> None:
    plain, drawn = _drawn(), _drawn()
    seen: list[Scored] = []

    def looks(scored: Scored) -> torch.Tensor:
        seen.append(scored)
        return group(scored)

    judge(drawn, PROMPTS, looks, divergence=k1, weight=0.5)
    # (-1 + 1.5) + (-2 + 1.75); what the tool said, in the middle, is none of the policy's.
    for one, before in zip(drawn.rollouts, plain.rollouts, strict=True):
        assert one.told == {"divergence": 0.25}
        assert one.reward == before.reward - 0.125
        assert one.rewards == before.rewards
    assert seen[0].kinds[:, -1].tolist() == [-0.25] * 6 and seen[0].weights[-1] == 0.5
    rewards = [one.reward for one in drawn.rollouts]
    torch.testing.assert_close(seen[0].total, torch.tensor(rewards, dtype=torch.float64))


def _valued() -> Drawn:
    drawn = _drawn()
    for one in drawn.rollouts:
        one.values = [0.5, 9.0, 0.25]
    return drawn


def test_with_values_each_token_has_an_advantage_of_its_own() -> None:
    drawn = _valued()
    judge(drawn, PROMPTS, partial(gae, lam=0.5))
    for one in drawn.rollouts:
        # What a tool said, in the middle, is no step; the reward is earned by the last token.
        last = one.reward - 0.25
        first = 0.25 - 0.5 + 0.5 * last
        assert one.advantages == pytest.approx([first, 0, last])
        assert one.returns == pytest.approx([first + 0.5, 0, one.reward])
        assert one.advantage == pytest.approx((first + last) / 2)


def test_returns_may_look_farther_than_advantages() -> None:
    drawn, plain = _valued(), _valued()
    judge(drawn, PROMPTS, partial(gae, lam=0.5), lam=1.0)
    judge(plain, PROMPTS, partial(gae, lam=0.5))
    for one, other in zip(drawn.rollouts, plain.rollouts, strict=True):
        assert one.advantages == other.advantages
        assert one.returns == pytest.approx([one.reward, 0, one.reward])


def test_with_values_a_divergence_is_taken_where_it_is() -> None:
    plain, drawn = _drawn(), _valued()
    judge(drawn, PROMPTS, gae, divergence=k1, weight=0.5)
    for one, before in zip(drawn.rollouts, plain.rollouts, strict=True):
        assert one.told == {"divergence": 0.25} and one.reward == before.reward - 0.125
        # Of 0.5 nats at the first token and -0.25 at the last, half is taken.
        assert one.returns == pytest.approx([before.reward - 0.125, 0, before.reward + 0.125])


def test_the_same_divergence_for_all_changes_no_advantage() -> None:
    plain, drawn = _drawn(), _drawn()
    judge(plain, PROMPTS, group)
    judge(drawn, PROMPTS, group, divergence=k1, weight=0.5)
    assert [one.advantage for one in drawn.rollouts] == pytest.approx(
        [one.advantage for one in plain.rollouts]
    )


def test_a_rollout_that_left_the_reference_has_less() -> None:
    drawn = _drawn()
    drawn.rollouts[3].old = [-0.1, 0.0, -0.1]
    judge(drawn, PROMPTS, group, divergence=k1, weight=0.5)
    kept, left = drawn.rollouts[2:4]
    assert kept.advantage > 0 > left.advantage and left.told["divergence"] == pytest.approx(3.05)
