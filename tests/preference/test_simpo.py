import math

import pytest
import torch

from plm.errors import ConfigError
from plm.preference.simpo import simpo
from tests.preference.common import drawn, gradients


def test_by_hand():
    policy, _ = drawn(["nothing"])
    policy = policy._replace(
        chosen=torch.tensor([-4.0], requires_grad=True),
        rejected=torch.tensor([-6.0], requires_grad=True),
        chosen_tokens=torch.tensor([4]),
        rejected_tokens=torch.tensor([2]),
    )
    total, count = simpo(policy, beta=1.5, gamma=1.0)
    assert total.item() == pytest.approx(math.log(1 + math.exp(-2))) and count == 1
    pull = 1.5 / (1 + math.exp(2))
    found = [gradient.item() for gradient in gradients(total, policy)]
    assert found == pytest.approx([-pull / 4, pull / 2])


@pytest.mark.parametrize(
    ("settings", "line"),
    [
        ({"beta": 0}, r"preference\.beta=0 must be a number above 0"),
        ({"gamma": -1}, r"preference\.gamma=-1 must be a number from 0 on; 0 switches it off"),
    ],
)
def test_errors(settings: dict, line: str):
    with pytest.raises(ConfigError, match=line):
        simpo(drawn(["nothing"])[0], **settings)
