"""What every choice of configs/correction must hold, and what they share."""

import inspect
from functools import partial
from pathlib import Path

import pytest
import torch
from omegaconf import OmegaConf

from plm.config import build
from plm.correction.common import check, mismatch
from plm.correction.truncated import truncated
from plm.errors import ConfigError
from tests.policy.common import with_nonsense

CHOICES = sorted((Path(__file__).parents[2] / "configs/correction").glob("*.yaml"))
ROLLOUT = torch.tensor([0, 0, 0, 2, 2])
LEVELS = pytest.mark.parametrize("level", ["token", "sequence"])


@pytest.fixture(params=CHOICES, ids=lambda path: path.stem)
def correction(request):
    return build(OmegaConf.load(request.param))


def test_there_are_choices():
    assert CHOICES


def test_the_file_holds_every_setting_with_its_default(correction):
    parameters = list(inspect.signature(correction.func).parameters.values())
    names = [p.name for p in parameters[:4]]
    assert names == ["old_logps", "sampler_logps", "rollout", "number"]
    assert correction.keywords == {p.name: p.default for p in parameters[4:]}


def test_passes_its_own_check(correction):
    check(correction)
    with pytest.raises(ConfigError, match=r"correction=\w+: got an unexpected .* 'nonsense'"):
        check(with_nonsense(correction))


@LEVELS
def test_equal_arithmetic_needs_none(correction, level: str):
    logps = -torch.rand(5)
    found = correction(logps, logps, ROLLOUT, 3, level=level)
    assert found.tolist() == [1] * 5 and found.dtype == logps.dtype


@LEVELS
def test_it_has_no_gradient(correction, level: str):
    logps = (-torch.rand(5)).requires_grad_()
    assert not correction(logps, logps - 0.1, ROLLOUT, 3, level=level).requires_grad


@LEVELS
@pytest.mark.parametrize("gap", [-1e4, 1e4])
def test_far_apart_it_is_finite(correction, gap: float, level: str):
    logps = -torch.rand(5)
    found = correction(logps, logps - gap, ROLLOUT, 3, level=level)
    assert found.isfinite().all()


def test_no_tokens(correction):
    nothing = torch.zeros(0)
    assert correction(nothing, nothing, ROLLOUT[:0], 0).shape == (0,)


def test_of_a_rollout_it_is_the_product():
    gap = torch.tensor([0.1, 0.2, -0.4, 0.3, 0.3], dtype=torch.float64)
    old = torch.zeros_like(gap)
    found = mismatch(old, old - gap, ROLLOUT, 3, "sequence").log()
    assert found.tolist() == pytest.approx([-0.1] * 3 + [0.6] * 2, abs=1e-15)
    assert torch.equal(mismatch(old, old - gap, ROLLOUT, 3, "token"), gap.exp())


@LEVELS
def test_what_the_sampler_did_not_say_counts_as_equal(level: str):
    old = -torch.rand(5, dtype=torch.float64)
    said = old - torch.tensor([0.1, 0.2, 0.0, 0.3, 0.3])
    unsaid = said.clone()
    unsaid[2] = torch.nan
    found = mismatch(old, unsaid, ROLLOUT, 3, level)
    torch.testing.assert_close(found, mismatch(old, said, ROLLOUT, 3, level), rtol=1e-15, atol=0)


@pytest.mark.parametrize(
    ("settings", "line"),
    [
        ({"low": -0.5}, r"correction\.low=-0\.5 must be a number from 0 on"),
        ({"high": "2"}, r"correction\.high='2' must be a number from 0 on"),
        ({"high": 0.9}, r"correction\.low=0\.0 and high=0\.9 must lie around 1"),
        ({"low": 1.1}, r"correction\.low=1\.1 and high=2\.0 must lie around 1"),
        ({"level": "rollout"}, r"correction\.level='rollout' must be one of: token, sequence"),
        ({"upper": 2}, r"correction=truncated: got an unexpected keyword argument 'upper'"),
    ],
)
def test_check_refuses_settings(settings: dict, line: str):
    with pytest.raises(ConfigError, match=line):
        check(partial(truncated, **settings))
