"""The value model: what it is fitted to, by how many processes, and what a checkpoint keeps."""

import copy
import threading
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from plm.errors import CheckpointError, ConfigError
from plm.policy.ppo import value_loss
from plm.rlvr.critic import Critic, Settings
from plm.rlvr.rollouts import Drawn, Rollout
from plm.rlvr.told import explained
from tests.model.common import plain_context, tiny
from tests.rlvr.made import own, plan_of, rollouts
from tests.rlvr.test_setup import _setup

PLANNED = plan_of(one={"sums": 1}).at(0)


def _critic(
    model: nn.Module | None = None, settings: Settings | None = None, **more: Any
) -> Critic:
    made = Critic(model or tiny(), settings or Settings(), device=torch.device("cpu"), **more)
    generator = torch.Generator().manual_seed(5)
    with torch.no_grad():
        made.head.weight.copy_(0.3 * torch.randn(made.head.weight.shape, generator=generator))
    return made


def _judged(number: int = 7) -> list[Rollout]:
    made = rollouts(number)
    for place, one in enumerate(made):
        one.values = [0.2 * mine for mine in one.learn]
        one.returns = [(place % 3) / 2 * mine for mine in one.learn]
    return made


def _plain(critic: Critic, one: Rollout) -> Tensor:
    """Values before a rollout's own tokens: alone, and through no place of a loss."""
    ids = torch.tensor([[*one.prompt, *one.tokens]])
    hidden = critic.model(ids, context=plain_context(*ids.shape)).hidden
    values = critic.head(hidden)[0, len(one.prompt) - 1 : -1, 0]
    return values[torch.tensor(one.learn, dtype=torch.bool)]


def test_each_token_has_the_value_before_it() -> None:
    critic, drawn = _critic(), Drawn(rollouts(7), 1)
    _setup().measure("values", critic.model, drawn, PLANNED, critic.values)
    for one in drawn.rollouts:
        torch.testing.assert_close(own(one, one.values).float(), _plain(critic, one).detach())
        assert all(v == 0 for v, mine in zip(one.values, one.learn, strict=True) if not mine)


def test_at_first_nothing_is_expected() -> None:
    drawn = Drawn(rollouts(3), 1)
    critic = Critic(tiny(), Settings(), device=torch.device("cpu"))
    _setup().measure("values", critic.model, drawn, PLANNED, critic.values)
    assert all(value == 0 for one in drawn.rollouts for value in one.values)


@pytest.mark.parametrize("clip", [0.2, None])
@pytest.mark.parametrize("micro", [2, 7])
def test_a_step_is_adam_on_the_mean_over_all_tokens(clip: float | None, micro: int) -> None:
    settings, made = Settings(peak_lr=1e-3, clip=clip, clip_norm=0.5), _judged()
    critic = _critic(settings=settings, micro=micro)
    other = copy.deepcopy(critic)
    optimizer = torch.optim.AdamW(
        other.parts.parameters(), lr=5e-4, betas=(0.9, 0.95), weight_decay=0.0
    )
    each = [
        value_loss(_plain(other, one), own(one, one.values), own(one, one.returns), clip)
        for one in made
    ]
    loss = torch.cat(each).mean()
    loss.backward()
    parameters = [p for p in other.parts.parameters() if p.grad is not None]
    assert float(nn.utils.clip_grad_norm_(parameters, 0.5)) > 0.5
    optimizer.step()
    said = critic.learn(made, PLANNED, share=0.5, step=0)
    total, count = said["value_loss"]
    assert float(total / count) == pytest.approx(float(loss.detach()), rel=1e-5)
    assert int(count) == sum(one.chosen for one in made)
    moved = [
        float((a - b).detach().abs().max())
        for a, b in zip(critic.parts.parameters(), _critic().parts.parameters(), strict=True)
    ]
    assert max(moved) > 1e-4
    for found, expected in zip(critic.parts.parameters(), other.parts.parameters(), strict=True):
        torch.testing.assert_close(found, expected, rtol=0, atol=2e-6)


def test_values_come_to_what_is_earned() -> None:
    critic, made = _critic(settings=Settings(peak_lr=3e-3, clip=None)), _judged()
    losses = [
        float(said.total / said.count)
        for step in range(60)
        for said in [critic.learn(made, PLANNED, share=1.0, step=step)["value_loss"]]
    ]
    assert losses[-1] < 0.1 * losses[0]
    assert explained(made)[0] < 0.1
    _setup().measure("values", critic.model, Drawn(made, 1), PLANNED, critic.values)
    assert explained(made)[0] > 0.8


def test_without_variance_nothing_is_explained() -> None:
    made = _judged()
    for one in made:
        one.returns = [1.0 * mine for mine in one.learn]
    assert explained(made) == [0.0, 0]


class _Summed:
    """torch.distributed.all_reduce between threads."""

    def __init__(self, world: int) -> None:
        self.barrier, self.lock, self.parts = threading.Barrier(world), threading.Lock(), []

    def __call__(self, value: Tensor) -> None:
        with self.lock:
            self.parts.append(value.clone())
        self.barrier.wait(30)
        total = torch.stack(self.parts).sum(0)
        self.barrier.wait(30)
        self.parts.clear()
        self.barrier.wait(30)
        value.copy_(total)


@pytest.mark.parametrize("world", [2, 3])
def test_processes_have_the_same_values_as_one(monkeypatch: pytest.MonkeyPatch, world: int) -> None:
    expected = _critic()
    expected.learn(_judged(), PLANNED, share=1.0, step=0)
    monkeypatch.setattr(torch.distributed, "all_reduce", _Summed(world))
    found: dict[int, Critic] = {}

    def run(rank: int) -> None:
        critic = _critic(rank=rank, world_size=world, micro=2)
        critic.learn(_judged(), PLANNED, share=1.0, step=0)
        found[rank] = critic

    threads = [threading.Thread(target=run, args=(rank,)) for rank in range(world)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert sorted(found) == list(range(world))
    for name, value in expected.parts.named_parameters():
        ours = [dict(critic.parts.named_parameters())[name] for critic in found.values()]
        assert all(torch.equal(ours[0], other) for other in ours[1:])
        # Adam divides by the root of a square: where a gradient is near 0, rounding is a step.
        torch.testing.assert_close(ours[0], value, rtol=0, atol=2e-5)


def test_a_gradient_that_is_not_finite_moves_nothing() -> None:
    critic, made = _critic(), _judged()
    made[0].returns = [float("nan")] * len(made[0].tokens)
    before = copy.deepcopy(critic.parts.state_dict())
    critic.learn(made, PLANNED, share=1.0, step=0)
    assert all(torch.equal(before[n], value) for n, value in critic.parts.state_dict().items())
    critic.learn(_judged(), PLANNED, share=1.0, step=1)
    assert not torch.equal(before["head.weight"], critic.head.weight)


def test_a_checkpoint_goes_on_as_if_nothing_had_been(tmp_path: Path) -> None:
    first, made = _critic(), _judged()
    first.learn(made, PLANNED, share=1.0, step=0)
    first.write(tmp_path)
    other = _critic()
    other.read(tmp_path)
    for critic in (first, other):
        critic.learn(made, PLANNED, share=1.0, step=1)
    for a, b in zip(first.parts.parameters(), other.parts.parameters(), strict=True):
        assert torch.equal(a, b)


def test_a_checkpoint_without_values(tmp_path: Path) -> None:
    with pytest.raises(CheckpointError, match=r"has no critic\.safetensors, which another run"):
        _critic().read(tmp_path)
    _critic().write(tmp_path)
    with pytest.raises(CheckpointError, match=r"critic\.safetensors does not fit"):
        _critic(tiny("scale.hidden_size=8")).read(tmp_path)


@pytest.mark.parametrize(
    ("key", "value", "rule"),
    [
        ("peak_lr", 0, "a number above 0"),
        ("clip", 0.0, "a number above 0"),
        ("clip_norm", -1, "a number from 0 on"),
        ("lam", 1.5, "a number from 0 to 1"),
        ("warmup_steps", -1, "a number from 0 on"),
        ("warmup_steps", 1.5, "a whole number"),
        ("warmup_steps", "two", "a number from 0 on"),
        ("peak_lr", "fast", "a number above 0"),
        ("warmup_steps", True, "a number from 0 on"),
    ],
)
def test_settings_out_of_range(key: str, value: Any, rule: str) -> None:
    with pytest.raises(ConfigError, match=rf"^stage\.critic\.{key}=.* must be {rule}"):
        Settings(**{key: value})
