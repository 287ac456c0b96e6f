import torch

from plm.model.norm.rms_norm import RMSNorm
from tests.model.common import compose, tiny


def test_by_hand():
    norm = RMSNorm(2, eps=0.5)
    with torch.no_grad():
        norm.weight.copy_(torch.tensor([1.0, 10.0]))
    # The mean of 3 * 3 and 4 * 4 is 12.5; with eps 13.
    found = norm(torch.tensor([[3.0, 4.0]]))
    torch.testing.assert_close(found, torch.tensor([[3.0, 40.0]]) / 13**0.5)


def test_the_weight_is_multiplied_before_the_cast():
    norm = RMSNorm(64)
    with torch.no_grad():
        norm.weight.copy_(1 + torch.rand(64))
    x = torch.randn(9, 64).bfloat16()
    inverse = torch.rsqrt(x.float().square().mean(-1, keepdim=True) + 1e-6)
    assert torch.equal(norm(x), (x.float() * inverse * norm.weight).bfloat16())
    assert not torch.equal(norm(x), norm.weight.bfloat16() * (x.float() * inverse).bfloat16())


def test_the_model_switches_its_norms():
    model = tiny()
    norms = [module for module in model.modules() if isinstance(module, RMSNorm)]
    assert len(norms) == 3 * len(model.layers) + 1
    for kernels in ("reference", "auto"):
        model.use_kernels(kernels)
        assert {norm.kernels for norm in norms} == {kernels}


def test_the_yaml_has_the_paper_s_eps():
    assert compose()["model"]["norm"]["eps"] == 1e-6
