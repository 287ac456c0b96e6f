"""What every choice of configs/divergence must hold."""

import inspect
from pathlib import Path

import pytest
import torch
from omegaconf import OmegaConf

from plm.config import build
from plm.divergence.common import check
from plm.errors import ConfigError
from tests.policy.common import with_nonsense

CHOICES = sorted((Path(__file__).parents[2] / "configs/divergence").glob("*.yaml"))


@pytest.fixture(params=CHOICES, ids=lambda path: path.stem)
def divergence(request):
    return build(OmegaConf.load(request.param))


def test_there_are_choices():
    assert CHOICES


def test_the_file_holds_every_setting_with_its_default(divergence):
    parameters = list(inspect.signature(divergence.func).parameters.values())
    assert [p.name for p in parameters[:3]] == ["logps", "ref_logps", "old_logps"]
    assert divergence.keywords == {p.name: p.default for p in parameters[3:]}


def test_passes_its_own_check(divergence):
    check(divergence)
    with pytest.raises(ConfigError, match=r"divergence=\w+: got an unexpected .* 'nonsense'"):
        check(with_nonsense(divergence))


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_a_value_a_token(divergence, dtype):
    logps = torch.randn(6, dtype=dtype, requires_grad=True)
    found = divergence(logps, logps.detach() - 0.5, logps.detach())
    assert found.shape == (6,) and found.dtype == dtype and found.requires_grad
    assert (found > 0).all()


def test_of_the_reference_itself_it_is_exactly_0(divergence):
    logps = torch.randn(6, requires_grad=True)
    found = divergence(logps, logps.detach(), logps.detach() - 0.3)
    assert found.tolist() == [0] * 6


def test_no_tokens(divergence):
    nothing = torch.zeros(0)
    assert divergence(nothing, nothing, nothing).shape == (0,)
