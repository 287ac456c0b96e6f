"""What every choice of configs/optimizer must hold."""

from pathlib import Path

import pytest
import torch
from omegaconf import OmegaConf
from torch import Tensor, nn

from plm.config import build
from plm.optimizer.common import NamedParameter

CHOICES = sorted((Path(__file__).parents[2] / "configs/optimizer").glob("*.yaml"))
ROLES = {"embedding": (11, 8), "q": (12, 8), "o": (8, 12), "norm": (8,), "up": (16, 8)}


class Toy:
    """A few parameters with roles, an optimizer over them, and steps of random gradients."""

    def __init__(self, factory, frozen: tuple[str, ...] = ()) -> None:
        torch.manual_seed(3)
        self.weights = {
            role: nn.Parameter(torch.randn(shape), requires_grad=role not in frozen)
            for role, shape in ROLES.items()
        }
        self.optimizer = factory(
            [
                NamedParameter(
                    role,
                    weight,
                    role,
                    rate_factor=0.5 if role == "o" else 1.0,
                    frozen=role in frozen,
                )
                for role, weight in self.weights.items()
            ],
            lr=0.01,
        )

    def steps(self, first: int, number: int, share: float = 0.7) -> None:
        """Steps whose gradients depend on their index alone."""
        for step in range(first, first + number):
            torch.manual_seed(step)
            for weight in self.weights.values():
                weight.grad = torch.randn_like(weight)
            for group in self.optimizer.param_groups:
                group["lr"] = group["initial_lr"] * share
            self.optimizer.step()

    def copy(self) -> dict[str, Tensor]:
        return {role: weight.detach().clone() for role, weight in self.weights.items()}


@pytest.fixture(params=CHOICES, ids=lambda path: path.stem)
def factory(request):
    return build(OmegaConf.load(request.param))


def test_there_are_choices():
    assert CHOICES


def test_everything_moves(factory):
    toy = Toy(factory)
    before = toy.copy()
    toy.steps(0, 1)
    assert all(not torch.equal(before[role], weight) for role, weight in toy.weights.items())
    assert all(torch.isfinite(weight).all() for weight in toy.weights.values())


def test_groups_carry_the_peak_rate(factory):
    rates = {
        id(weight): group["initial_lr"]
        for group in Toy(factory).optimizer.param_groups
        for weight in group["params"]
    }
    assert sorted(rates.values()) == pytest.approx([0.005] + [0.01] * 4)


def test_rate_0_moves_nothing(factory):
    toy = Toy(factory)
    before = toy.copy()
    toy.steps(0, 1, share=0.0)
    assert all(torch.equal(before[role], weight) for role, weight in toy.weights.items())


def test_saved_and_restored_goes_on_bit_for_bit(factory, tmp_path: Path):
    straight, saved = Toy(factory), Toy(factory)
    straight.steps(0, 5)
    saved.steps(0, 2)
    torch.save([saved.copy(), saved.optimizer.state_dict()], tmp_path / "state.pt")
    weights, state = torch.load(tmp_path / "state.pt", weights_only=True)
    restored = Toy(factory)
    with torch.no_grad():
        for role, weight in restored.weights.items():
            weight.copy_(weights[role])
    restored.optimizer.load_state_dict(state)
    restored.steps(2, 3)
    for role, weight in restored.weights.items():
        assert torch.equal(weight, straight.weights[role]), role


def test_frozen_parameters_never_move(factory):
    toy = Toy(factory, frozen=("q", "embedding"))
    before = toy.copy()
    toy.steps(0, 3)
    moved = {role for role, weight in toy.weights.items() if not torch.equal(before[role], weight)}
    assert moved == {"o", "norm", "up"}
    held = {id(weight) for group in toy.optimizer.param_groups for weight in group["params"]}
    assert id(toy.weights["q"]) not in held


def test_a_parameter_without_a_gradient_is_passed_over(factory):
    toy = Toy(factory)
    before = toy.copy()
    toy.weights["up"].grad = torch.ones(16, 8)
    toy.optimizer.step()
    assert torch.equal(before["q"], toy.weights["q"])
    assert not torch.equal(before["up"], toy.weights["up"])
