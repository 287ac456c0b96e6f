"""What every choice of configs/aggregation must hold."""

import inspect
from pathlib import Path

import pytest
import torch
from omegaconf import OmegaConf

from plm.aggregation.common import check, there
from plm.aggregation.token import token
from plm.config import build
from plm.errors import ConfigError
from tests.policy.common import with_nonsense

CHOICES = sorted((Path(__file__).parents[2] / "configs/aggregation").glob("*.yaml"))


@pytest.fixture(params=CHOICES, ids=lambda path: path.stem)
def aggregation(request):
    return build(OmegaConf.load(request.param))


def test_there_are_choices():
    assert CHOICES


def test_the_file_holds_every_setting_with_its_default(aggregation):
    parameters = list(inspect.signature(aggregation.func).parameters.values())
    assert [p.name for p in parameters[:2]] == ["lengths", "longest"]
    assert aggregation.keywords == {p.name: p.default for p in parameters[2:]}


def test_passes_its_own_check(aggregation):
    check(aggregation)
    with pytest.raises(ConfigError, match=r"aggregation=\w+: got an unexpected .* 'nonsense'"):
        check(with_nonsense(aggregation))


def test_a_rollout_that_is_left_out_is_in_no_denominator(aggregation):
    found = aggregation(torch.tensor([3, 0, 5, 0]), longest=8)
    alone = aggregation(torch.tensor([3, 5]), longest=8)
    assert found.dtype == torch.float64 and found.isfinite().all()
    assert torch.equal(found[[0, 2]], alone)


@pytest.mark.parametrize("lengths", [[], [0, 0]])
def test_no_tokens(aggregation, lengths: list[int]):
    found = aggregation(torch.tensor(lengths, dtype=torch.int64), longest=8)
    assert found.shape == (len(lengths),) and found.isfinite().all()


def test_a_batch_twice_weighs_half(aggregation):
    lengths = torch.tensor([3, 1, 5])
    twice = aggregation(lengths.repeat(2), longest=8)
    once = aggregation(lengths, longest=8)
    torch.testing.assert_close(twice, once.repeat(2) / 2, rtol=1e-15, atol=0)


def test_there_counts_rollouts_with_tokens():
    assert there(torch.tensor([0, 2, 1])) == 2 and there(torch.tensor([0, 0])) == 1


def test_check_says_what_is_missing():
    with pytest.raises(ConfigError, match=r"aggregation=own: got an unexpected .* 'longest'"):

        def own(lengths):
            return token(lengths, longest=1)

        check(own)
