import pytest
import torch

from plm.divergence.corrected import corrected
from plm.divergence.k3 import k3
from tests.divergence.common import Softmax


def test_by_hand():
    logps, ref = torch.tensor([-1.0, -3.0]).double(), torch.tensor([-2.0, -1.0]).double()
    old = torch.tensor([-1.0, -2.0]).double()
    ratio = (logps - old).exp()
    assert torch.equal(corrected(logps, ref, old), ratio * k3(logps, ref, old))


@pytest.mark.parametrize("on_policy", [True, False])
def test_mean_and_gradient_are_those_of_the_divergence(on_policy: bool):
    """Also of tokens that an older policy drew, where k3's are not."""
    found = Softmax()
    drawn = None if on_policy else found.older
    value = found.mean(corrected, drawn)
    assert value.item() == pytest.approx(found.towards.item(), abs=1e-14)
    mine, its = found.gradient(value), found.gradient(found.towards)
    torch.testing.assert_close(mine, its, rtol=0, atol=1e-14)
    other = found.mean(k3, drawn)
    assert (found.gradient(other) - its).abs().max() > 1e-3
    assert on_policy or abs(other - found.towards) > 1e-3
