"""What every choice of configs/advantage must hold, and what they share."""

import inspect
import math
from functools import partial
from pathlib import Path

import pytest
import torch
from omegaconf import OmegaConf

from plm.advantage.batch import batch
from plm.advantage.centred import centred
from plm.advantage.common import (
    Scored,
    apart,
    check,
    group_mean,
    group_size,
    group_std,
    needs_values,
    same,
)
from plm.advantage.decoupled import decoupled
from plm.advantage.group import group
from plm.advantage.leave_one_out import leave_one_out
from plm.config import build
from plm.errors import ConfigError
from plm.policy.clip import clip
from tests.policy.common import gradients, made, scored, with_nonsense

CHOICES = sorted((Path(__file__).parents[2] / "configs/advantage").glob("*.yaml"))
OF_ROLLOUTS = [path for path in CHOICES if path.stem != "gae"]
NAN = math.nan


@pytest.fixture(params=CHOICES, ids=lambda path: path.stem)
def choice(request):
    return build(OmegaConf.load(request.param))


@pytest.fixture(params=OF_ROLLOUTS, ids=lambda path: path.stem)
def advantage(request):
    return build(OmegaConf.load(request.param))


def drawn(prompts: int = 3, size: int = 4) -> Scored:
    return scored(torch.rand(prompts * size, 2).tolist(), size, [1.0, 0.5])


def test_there_are_choices():
    assert len(CHOICES) == len(OF_ROLLOUTS) + 1 > 1


def test_the_file_holds_every_setting_with_its_default(choice):
    parameters = list(inspect.signature(choice.func).parameters.values())
    settings = {p.name: p.default for p in parameters if p.kind == p.KEYWORD_ONLY}
    assert choice.keywords == settings
    assert needs_values(choice) == (parameters[0].name != "scored")


def test_passes_its_own_check(choice):
    check(choice)
    with pytest.raises(ConfigError, match=r"advantage=\w+: got an unexpected keyword .*nonsense"):
        check(with_nonsense(choice))


def test_one_a_rollout_whose_groups_settle_to_0(advantage):
    given = drawn()
    found = advantage(given)
    assert found.shape == (12,) and found.dtype == torch.float64
    assert found.view(3, 4).sum(1).abs().max() < 1e-13
    # Sorted by what they earned, in each group.
    if advantage.func is not decoupled:
        total = given.total.view(3, 4)
        assert torch.equal(found.view(3, 4).argsort(1), total.argsort(1))


@pytest.mark.parametrize("value", [0.0, 0.1, 1 / 3, 1.0])
@pytest.mark.parametrize("size", [1, 3, 6])
def test_equal_rewards_teach_exactly_nothing(advantage, value: float, size: int):
    found = advantage(scored([[value, value / 7]] * 12, size, [1.0, 0.3]))
    assert found.tolist() == [0] * 12


def test_an_equal_group_is_exactly_0_beside_others(advantage):
    rewards = [[0.1, 0.7]] * 3 + [[0.3, 0.7], [0.2, 0.1], [0.9, 0.2]]
    found = advantage(scored(rewards, 3, [1.0, 0.3]))
    assert found[:3].tolist() == [0, 0, 0] and found[3:].all()


def test_an_equal_group_gives_exactly_no_gradient(advantage):
    """At several updates a batch too, where ratios are not 1."""
    worth = advantage(scored([[0.1]] * 3 + [[0.3], [0.2], [0.9]], 3, [1.0]))
    step = made([2, 1, 4, 3, 1, 2], advantages=worth)
    ((grad,),) = gradients(clip(step.tokens).loss.sum(), by=step.logits)
    assert not grad[:7].any() and grad[7:].any()


@pytest.mark.parametrize("advantage", [group, centred, leave_one_out])
def test_a_group_of_one_is_0_and_leaves_the_others_alone(advantage):
    rewards = torch.tensor([[0.3], [0.9], [0.2]], dtype=torch.float64)
    weights = torch.ones(1, dtype=torch.float64)
    groups = torch.tensor([0, 1, 1])
    found = advantage(Scored(rewards, weights, groups))
    pair = advantage(Scored(rewards[1:], weights, groups[1:] - 1))
    assert found[0] == 0 and torch.equal(found[1:], pair)


def test_a_single_rollout_is_0(advantage):
    assert advantage(scored([[0.7]], 1, [1.0])).tolist() == [0]


def test_no_rollouts(advantage):
    nothing = torch.zeros(0, 2, dtype=torch.float64)
    weights = torch.ones(2, dtype=torch.float64)
    assert advantage(Scored(nothing, weights, torch.zeros(0, dtype=torch.int64))).shape == (0,)


def test_a_constant_on_all_rewards_changes_nothing(advantage):
    given = drawn()
    moved = given._replace(kinds=given.kinds + 5)
    torch.testing.assert_close(advantage(moved), advantage(given), rtol=0, atol=1e-12)


def test_the_scale_of_rewards(advantage):
    """It is divided out with the deviation, and stays without."""
    given = drawn()
    louder = given._replace(kinds=given.kinds * 1000)
    if "eps" in advantage.keywords:
        advantage.keywords["eps"] = 1e-13
        torch.testing.assert_close(advantage(louder), advantage(given), rtol=1e-11, atol=0)
    else:
        torch.testing.assert_close(advantage(louder), 1000 * advantage(given), rtol=1e-11, atol=0)


def test_a_kind_that_judges_other_sources_is_not_there(advantage):
    """Two sources in a batch, each with a kind of its own, and one that judges both."""
    first = torch.rand(4, 2, dtype=torch.float64)
    second = torch.rand(4, 2, dtype=torch.float64)
    gone = torch.full((4, 1), NAN, dtype=torch.float64)
    kinds = torch.cat(
        [torch.cat([first, gone], 1), torch.cat([second[:, :1], gone, second[:, 1:]], 1)]
    )
    weights = torch.tensor([1.0, 0.5, 2.0], dtype=torch.float64)
    found = advantage(Scored(kinds, weights, torch.arange(8) // 4))
    filled = torch.where(kinds.isnan(), 0.25, kinds)
    assert found.isfinite().all()
    whole = advantage(Scored(filled, weights, torch.arange(8) // 4))
    torch.testing.assert_close(found, whole, rtol=0, atol=1e-13)


def test_a_rollout_that_nothing_judges_is_0_and_in_no_mean(advantage):
    kinds = torch.rand(6, 2, dtype=torch.float64)
    weights = torch.ones(2, dtype=torch.float64)
    groups = torch.tensor([0, 0, 0, 1, 1, 1])
    alone = advantage(Scored(kinds, weights, groups))
    more = torch.cat([kinds[:2], torch.full((1, 2), NAN), kinds[2:], torch.full((3, 2), NAN)])
    found = advantage(Scored(more, weights, torch.tensor([0, 0, 0, 0, 1, 1, 1, 2, 2, 2])))
    kept = torch.tensor([0, 1, 3, 4, 5, 6])
    torch.testing.assert_close(found[kept], alone, rtol=0, atol=1e-14)
    assert found[[2, 7, 8, 9]].tolist() == [0, 0, 0, 0]


def test_totals():
    given = scored([[1.0, NAN], [0.5, 1.0], [NAN, NAN]], 3, [2.0, 0.25])
    assert given.total.tolist() == [2.0, 1.25, 0.0]
    judged = given.judged.tolist()
    assert judged[:2] == [2.0, 1.25] and math.isnan(judged[2])


def test_statistics_of_groups():
    values = torch.tensor([1.0, 3.0, NAN, 5.0, 0.1, 0.1, 0.1], dtype=torch.float64)
    groups = torch.tensor([0, 0, 0, 1, 2, 2, 2])
    assert group_mean(values, groups)[:4].tolist() == [2, 2, 2, 5]
    assert group_std(values, groups).tolist() == [math.sqrt(2)] * 3 + [0] * 4
    assert group_size(values, groups).tolist() == [2, 2, 2, 1, 3, 3, 3]
    assert same(values, groups).tolist() == [False, True, True]
    found = apart(values, groups).tolist()
    assert found[:2] == [-1, 1] and math.isnan(found[2]) and found[3:] == [0] * 4
    # What that is for: their mean is not their value.
    assert group_mean(values, groups)[4] != 0.1


@pytest.mark.parametrize(
    ("advantage", "line"),
    [
        (partial(group, eps=0), r"advantage\.eps=0 must be a number above 0"),
        (partial(group, eps="1e-4"), r"advantage\.eps='1e-4' must be a number above 0"),
        (partial(group, epps=1), r"advantage=group: got an unexpected keyword argument 'epps'"),
        (partial(batch, baseline=None), r"advantage\.baseline=None must be one of: group, none"),
    ],
)
def test_check_refuses_settings(advantage, line: str):
    with pytest.raises(ConfigError, match=line):
        check(advantage)
