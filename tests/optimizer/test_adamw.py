import pytest
import torch

from plm.errors import ConfigError
from plm.optimizer.adamw import adamw
from plm.optimizer.common import NamedParameter


def parameters() -> dict[str, NamedParameter]:
    items = [
        NamedParameter("q", torch.ones(2, 2, requires_grad=True), "q"),
        NamedParameter("embedding", torch.ones(2, 2, requires_grad=True), "embedding"),
        NamedParameter("norm", torch.ones(2, requires_grad=True), "norm"),
        NamedParameter("bias", torch.ones(2, requires_grad=True), "other"),
        NamedParameter("slow", torch.ones(2, 2, requires_grad=True), "up", rate_factor=0.1),
        NamedParameter("plain", torch.ones(2, 2, requires_grad=True), "up", decay=False),
    ]
    return {item.name: item for item in items}


def decayed(**settings) -> set[str]:
    items = parameters()
    optimizer = adamw(items.values(), lr=0.1, weight_decay=0.5, **settings)
    for item in items.values():
        item.parameter.grad = torch.zeros_like(item.parameter)
    optimizer.step()
    return {name for name, item in items.items() if item.parameter.max() < 1}


def test_what_decays():
    assert decayed() == {"q", "slow"}
    assert decayed(decay_embeddings=True) == {"q", "slow", "embedding"}


def test_first_step_by_hand():
    items = parameters()
    optimizer = adamw(items.values(), lr=0.1, betas=[0.9, 0.95], weight_decay=0.5)
    for item in items.values():
        item.parameter.grad = torch.full_like(item.parameter, 3.0)
    optimizer.step()
    # Decay lr · 0.5, then a first step of the size of lr.
    assert items["q"].parameter[0, 0].item() == pytest.approx(1 - 0.05 - 0.1, rel=1e-5)
    assert items["norm"].parameter[0].item() == pytest.approx(1 - 0.1, rel=1e-5)
    assert items["slow"].parameter[0, 0].item() == pytest.approx(1 - 0.005 - 0.01, rel=1e-5)


def test_groups_and_fusing():
    optimizer = adamw(parameters().values(), lr=0.1)
    assert [g["initial_lr"] for g in optimizer.param_groups] == pytest.approx([0.1, 0.1, 0.01])
    assert optimizer.defaults["fused"]
    meta = NamedParameter("q", torch.ones(2, 2, device="meta", requires_grad=True), "q")
    assert not adamw([meta], lr=0.1).defaults["fused"]


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"lr": -1}, "lr=-1 of adamw is not 0 or more"),
        ({"lr": 1, "betas": (0.9, 1.0)}, r"beta2=1\.0 of adamw is not in \[0, 1\)"),
        ({"lr": 1, "weight_decay": -1}, "weight_decay=-1 of adamw is not 0 or more"),
    ],
)
def test_errors(settings: dict, message: str):
    with pytest.raises(ConfigError, match=r"optimizer\." + message):
        adamw(parameters().values(), **settings)


def test_nothing_to_train():
    frozen = NamedParameter("q", torch.ones(2, 2), "q", frozen=True)
    with pytest.raises(ConfigError, match="every parameter is frozen"):
        adamw([frozen], lr=0.1)
