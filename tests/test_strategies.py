"""What a placement does to gradients, and what it takes over from a checkpoint."""

import math
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from torch import nn

from plm.callbacks.average import WeightAverage
from plm.errors import CheckpointError, ConfigError
from plm.strategies import Placement, ShardedPlacement, deepspeed


def placed(scaler: torch.amp.GradScaler | None = None, lr: float = 0.5) -> Placement:
    model = nn.Linear(2, 1, bias=False)
    with torch.no_grad():
        model.weight.copy_(torch.tensor([[1.0, 2.0]]))
    group = {"params": list(model.parameters()), "initial_lr": lr}
    optimizer = torch.optim.SGD([group], lr=lr, momentum=0.9)
    trainer = SimpleNamespace(
        strategy=SimpleNamespace(optimizers=[optimizer]),
        precision_plugin=SimpleNamespace(scaler=scaler),
    )
    stage: Any = SimpleNamespace(model=model, trainer=trainer, optimizers=lambda: optimizer)
    return Placement(stage)


def backward(placement: Placement, factor: float = 1.0) -> None:
    """A gradient of [3, 4] times the factor, scaled as the precision asks for."""
    loss = placement.stage.model(torch.tensor([[3.0, 4.0]]) * factor).sum()
    (placement.scaler.scale(loss) if placement.scaler else loss).backward()


@pytest.mark.parametrize(("most", "left"), [(1.0, 0.2), (10.0, 1.0), (0.0, 1.0)])
def test_clip_says_the_norm_before_and_zero_does_not_clip(most: float, left: float) -> None:
    placement = placed()
    backward(placement)
    assert float(placement.clip(most)) == pytest.approx(5.0)
    torch.testing.assert_close(
        placement.stage.model.weight.grad, torch.tensor([[3.0, 4.0]]) * left, rtol=1e-4, atol=0
    )


def test_fp16_is_clipped_at_its_true_size() -> None:
    plain, scaled = placed(), placed(torch.amp.GradScaler("cpu", init_scale=65536.0))
    for placement in (plain, scaled):
        backward(placement)
        assert float(placement.clip(1.0)) == pytest.approx(5.0)
        assert placement.step(torch.tensor(5.0))
    torch.testing.assert_close(plain.stage.model.weight, scaled.stage.model.weight)


def test_fp16_overflow_lowers_the_scale_and_is_no_bad_step() -> None:
    placement = placed(torch.amp.GradScaler("cpu", init_scale=4.0))
    before = placement.stage.model.weight.detach().clone()
    said = []
    for _ in range(3):
        placement.stage.model.zero_grad()
        backward(placement, math.inf)
        said.append(placement.step(placement.clip(1.0)))
    # At 4 and at 2 it can go lower; at 1 the loss itself is not finite.
    assert said == [True, True, False]
    assert placement.scaler.get_scale() == 0.5
    assert torch.equal(placement.stage.model.weight, before)


def test_gradient_that_is_not_finite_is_not_stepped_with() -> None:
    placement = placed()
    backward(placement, math.nan)
    before = placement.stage.model.weight.detach().clone()
    assert not placement.step(placement.clip(1.0))
    assert torch.equal(placement.stage.model.weight, before)


def test_fork_keeps_its_own_rate_and_takes_the_momentum() -> None:
    old, new = placed(lr=0.5), placed(lr=0.005)
    backward(old)
    old.step(old.clip(0.0))
    new.load_optimizer(lambda: new.optimizer.load_state_dict(old.optimizer.state_dict()))
    (group,) = new.optimizer.param_groups
    assert (group["lr"], group["initial_lr"]) == (0.005, 0.005)
    (state,) = new.optimizer.state.values()
    torch.testing.assert_close(state["momentum_buffer"], torch.tensor([[3.0, 4.0]]))


def test_state_of_another_optimizer_is_refused() -> None:
    placement = placed()
    two = torch.optim.SGD([{"params": [nn.Parameter(torch.ones(1))]} for _ in range(2)], lr=1.0)
    with pytest.raises(CheckpointError, match="init=weights"):
        placement.load_optimizer(lambda: placement.optimizer.load_state_dict(two.state_dict()))


def test_mean_of_shared_weights_is_refused_before_the_first_step(tmp_path) -> None:
    stage: Any = SimpleNamespace(placement=ShardedPlacement(None))
    with pytest.raises(ConfigError, match=r"callbacks.average.*trainer=single or ddp"):
        WeightAverage(tmp_path).on_train_start(None, stage)


def test_zero_3_is_refused() -> None:
    pytest.importorskip("deepspeed")
    with pytest.raises(ConfigError, match="trainer=fsdp"):
        deepspeed(3, 1.0)
