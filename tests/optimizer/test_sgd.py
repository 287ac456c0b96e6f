import pytest
import torch

from plm.errors import ConfigError
from plm.optimizer.common import NamedParameter
from plm.optimizer.sgd import sgd


def parameters() -> dict[str, NamedParameter]:
    items = [
        NamedParameter("q", torch.ones(2, 2, requires_grad=True), "q"),
        NamedParameter("embedding", torch.ones(2, 2, requires_grad=True), "embedding"),
        NamedParameter("norm", torch.ones(2, requires_grad=True), "norm"),
        NamedParameter("slow", torch.ones(2, 2, requires_grad=True), "up", rate_factor=0.1),
    ]
    return {item.name: item for item in items}


def stepped(gradients: list[float], **settings) -> dict[str, float]:
    items = parameters()
    optimizer = sgd(items.values(), **settings)
    for gradient in gradients:
        for item in items.values():
            item.parameter.grad = torch.full_like(item.parameter, gradient)
        optimizer.step()
    return {name: item.parameter.flatten()[0].item() for name, item in items.items()}


def test_step_is_as_long_as_the_gradient():
    assert stepped([2.0], lr=0.1)["q"] == pytest.approx(1 - 0.2)
    assert stepped([0.02], lr=0.1)["q"] == pytest.approx(1 - 0.002)
    assert stepped([2.0], lr=0.1)["slow"] == pytest.approx(1 - 0.02)


def test_momentum_by_hand():
    # 0.1 · 2, then 0.1 · (0.5 · 2 + 1).
    assert stepped([2.0, 1.0], lr=0.1, momentum=0.5)["q"] == pytest.approx(1 - 0.2 - 0.2)


def test_what_decays():
    ends = stepped([0.0], lr=0.1, weight_decay=0.5)
    assert ends["q"] == pytest.approx(0.95)
    assert ends["embedding"] == ends["norm"] == 1
    assert stepped([0.0], lr=0.1, weight_decay=0.5, decay_embeddings=True)["embedding"] < 1


def test_no_state_without_momentum():
    items = parameters()
    optimizer = sgd(items.values(), lr=0.1)
    for item in items.values():
        item.parameter.grad = torch.ones_like(item.parameter)
    optimizer.step()
    kept = [v for state in optimizer.state.values() for v in state.values() if v is not None]
    assert not kept


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"lr": -1}, "lr=-1 of sgd is not 0 or more"),
        ({"lr": 1, "momentum": 1.0}, r"momentum=1\.0 of sgd is not in \[0, 1\)"),
        ({"lr": 1, "weight_decay": -1}, "weight_decay=-1 of sgd is not 0 or more"),
    ],
)
def test_refused(settings, message):
    with pytest.raises(ConfigError, match=message):
        sgd(parameters().values(), **settings)
