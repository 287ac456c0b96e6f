from functools import partial

import pytest
import torch

from plm.errors import ConfigError
from plm.preference.aries import aries
from plm.preference.common import (
    SHOWN,
    check,
    margins,
    means,
    needs_reference,
    number,
    shown_by,
)
from plm.preference.dpo import dpo
from plm.preference.simpo import simpo
from tests.preference.common import drawn, exchanged


@pytest.mark.parametrize("per_token", [False, True])
def test_exchanging_the_answers_flips_the_margin(per_token: bool):
    policy, reference = drawn(SHOWN * 4)
    found = margins(policy, reference, per_token=per_token)
    other = margins(exchanged(policy), exchanged(reference), per_token=per_token)
    assert torch.equal(found, -other) and found.all()


def test_margins_by_hand():
    policy, reference = drawn(["nothing"])
    policy = policy._replace(chosen=torch.tensor([-1.0]), rejected=torch.tensor([-6.0]))
    policy = policy._replace(chosen_tokens=torch.tensor([2]), rejected_tokens=torch.tensor([4]))
    reference = policy._replace(chosen=torch.tensor([-2.0]), rejected=torch.tensor([-3.0]))
    assert margins(policy, reference).item() == 1 - -3
    assert margins(policy, reference, per_token=True).item() == 1 / 2 - -3 / 4
    assert [mean.item() for mean in means(policy)] == [-0.5, -1.5]
    assert number(policy) == 1 and number(policy).dtype == torch.int64


def test_what_a_loss_says_of_itself():
    assert shown_by(dpo) == ("nothing",)
    assert shown_by(partial(aries, alpha=1.0, beta=0.2)) == ("worse", "better")
    assert needs_reference(partial(dpo, beta=0.2)) and not needs_reference(partial(simpo))


def test_check_calls_the_loss_with_each_kind_once():
    seen = []

    def loss(policy, reference, *, beta: float):
        seen.append((policy.shown.tolist(), reference is None, beta))
        return dpo(policy, reference, beta=beta)

    check(partial(loss, beta=0.3))
    loss.reference_free = True
    with pytest.raises(AttributeError):
        check(partial(loss, beta=0.3))
    assert seen == [([0, 1, 2], False, 0.3), ([0, 1, 2], True, 0.3)]


@pytest.mark.parametrize(
    ("loss", "line"),
    [
        (partial(dpo, betta=1.0), r"preference=dpo: got an unexpected keyword argument 'betta'"),
        (partial(aries, alpha=2.0), r"preference\.alpha=2\.0 must be from 0, which is DPO"),
        (partial(dpo, beta="0.1"), r"preference\.beta='0\.1' must be a number above 0, for exa"),
        (partial(dpo, beta=True), r"preference\.beta=True must be a number above 0"),
        (partial(dpo, beta=float("nan")), r"preference\.beta=nan must be a number above 0"),
        (partial(dpo, beta=float("inf")), r"preference\.beta=inf must be a number above 0"),
    ],
)
def test_check_refuses_settings(loss, line: str):
    with pytest.raises(ConfigError, match=line):
        check(loss)
