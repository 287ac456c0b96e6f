"""What every choice of configs/policy must hold, and what they share."""

import inspect
from functools import partial
from pathlib import Path

import pytest
import torch
from omegaconf import OmegaConf

from plm.config import build
from plm.errors import ConfigError
from plm.policy.clip import clip
from plm.policy.common import check, check_choice, means, ratios
from tests.policy.common import at, gradients, lengths_of, made, part, total, with_nonsense

CHOICES = sorted((Path(__file__).parents[2] / "configs/policy").glob("*.yaml"))


@pytest.fixture(params=CHOICES, ids=lambda path: path.stem)
def loss(request):
    return build(OmegaConf.load(request.param))


@pytest.fixture(params=[c for c in CHOICES if c.stem != "none"], ids=lambda path: path.stem)
def teacher(request):
    """A loss that learns from rewards."""
    return build(OmegaConf.load(request.param))


def test_there_are_choices():
    assert CHOICES


def test_the_file_holds_every_setting_with_its_default(loss):
    parameters = list(inspect.signature(loss.func).parameters.values())
    assert parameters[0].name == "tokens"
    assert loss.keywords == {p.name: p.default for p in parameters[1:]}


def test_passes_its_own_check(loss):
    check(loss)
    with pytest.raises(ConfigError, match=r"policy=\w+: got an unexpected keyword .* 'nonsense'"):
        check(with_nonsense(loss))


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_a_value_a_token(loss, dtype):
    tokens = made([3, 1, 5], dtype=dtype).tokens
    found = loss(tokens)
    assert found.loss.shape == (9,) and found.loss.dtype == dtype
    for held in (found.below, found.above):
        assert held.shape == (9,) and held.dtype == torch.bool
    assert not (found.below & found.above).any()


def test_no_tokens(loss):
    drawn = made([])
    found = loss(drawn.tokens)
    found.loss.sum().backward()
    assert found.loss.shape == found.below.shape == found.above.shape == (0,)


def test_micro_batches_of_whole_rollouts_add_up(loss):
    drawn = made([3, 1, 5, 2])
    tokens = drawn.tokens
    weights = torch.rand(4, dtype=torch.float64)
    whole = total(loss(tokens), tokens, weights)
    pieces = [(part(tokens, *ends), weights[slice(*ends)]) for ends in ((0, 1), (1, 3), (3, 4))]
    split = sum(total(loss(piece), piece, its) for piece, its in pieces)
    grads = gradients(whole, split, by=drawn.logits)
    torch.testing.assert_close(*grads, rtol=0, atol=1e-15)


def test_what_is_worth_nothing_has_no_gradient(teacher):
    drawn = made([3, 2], advantages=torch.tensor([1.0, 0.0]), moved=0.0)
    # Further than fp32's exponential goes.
    old = drawn.tokens.old_logps - torch.tensor([0.0, 0, 0, 100, 1e4])
    tokens = drawn.tokens._replace(old_logps=old)
    (grad,) = torch.autograd.grad(teacher(tokens).loss.sum(), tokens.logps)
    assert grad[:3].any() and not grad[3:].any()


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("distance", [-1e4, 1e4])
def test_far_from_the_old_policy_all_is_finite(loss, distance: float, dtype):
    drawn = made([3, 2], advantages=torch.tensor([1.0, -1.0]), dtype=dtype)
    tokens = drawn.tokens._replace(old_logps=drawn.tokens.old_logps - distance)
    found = loss(tokens).loss
    (grad,) = torch.autograd.grad(found.sum(), drawn.logits)
    assert found.isfinite().all() and grad.isfinite().all()


def test_at_the_old_policy_a_good_rollout_is_raised(teacher):
    tokens = made([3, 2], advantages=torch.tensor([2.0, -1.0]), moved=0.0).tokens
    found = teacher(tokens)
    (grad,) = torch.autograd.grad(found.loss.sum(), tokens.logps)
    torch.testing.assert_close(grad, -tokens.advantages, rtol=0, atol=1e-15)
    assert not found.below.any() and not found.above.any()


def test_means_of_rollouts():
    values = torch.tensor([1.0, 2.0, 6.0, 5.0])
    assert means(values, torch.tensor([0, 0, 0, 2]), 4).tolist() == [3, 0, 5, 0]
    assert lengths_of(made([2, 1, 4]).tokens).tolist() == [2, 1, 4]


def test_ratios_are_held_far_out_only():
    gap = torch.tensor([-300.0, -1.0, 0.0, 19.0, 300.0], dtype=torch.float64)
    found = ratios(gap, torch.zeros_like(gap))
    assert torch.equal(found[:4], gap[:4].exp()) and found[4] == torch.tensor(20.0).double().exp()


@pytest.mark.parametrize(
    ("settings", "line"),
    [
        ({"clip_lo": 0.1}, r"policy=clip: got an unexpected keyword argument 'clip_lo'"),
        ({"clip_low": -0.1}, r"policy\.clip_low=-0\.1 must be a number from 0 on: how far"),
        ({"clip_low": "0.2"}, r"policy\.clip_low='0\.2' must be a number from 0 on"),
        ({"clip_high": True}, r"policy\.clip_high=True must be a number from 0 on"),
        ({"clip_high": None}, r"policy\.clip_high=None must be a number from 0 on"),
        ({"clip_high": float("nan")}, r"policy\.clip_high=nan must be a number from 0 on"),
        ({"clip_high": float("inf")}, r"policy\.clip_high=inf must be a number from 0 on"),
    ],
)
def test_check_refuses_settings(settings: dict, line: str):
    with pytest.raises(ConfigError, match=line):
        check(partial(clip, **settings))


def test_check_says_what_a_loss_of_ones_own_lacks():
    def own(tokens, *, strength: float):
        return clip(tokens, clip_low=strength)

    check(partial(own, strength=0.1))
    with pytest.raises(ConfigError, match=r"policy=own: missing a required .*'strength'"):
        check(own)


def test_words():
    check_choice("policy", ("a", "b"), kind="b")
    with pytest.raises(ConfigError, match=r"policy\.kind=\['a'\] must be one of: a, b"):
        check_choice("policy", ("a", "b"), kind=["a"])


def test_the_tests_own_ratios():
    tokens = at([0.5, 2.0], [1.0, 1.0])
    found = ratios(tokens.logps, tokens.old_logps).tolist()
    assert found == pytest.approx([0.5, 2.0], abs=1e-15)
