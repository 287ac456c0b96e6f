"""What a stage has beside it: log-probabilities of rollouts, and the cursor in a checkpoint."""

import threading
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

from plm.errors import CheckpointError
from plm.rlvr.cursor import Cursor
from plm.rlvr.rollouts import Drawn
from plm.rlvr.setup import CURSOR, Setup
from tests.model.common import tiny
from tests.rlvr.made import alone, own, plan_of, prompt_set, rollouts, source_of
from tests.rlvr.test_sampler import _Together

PLAN = plan_of(one={"sums": 1})


@pytest.fixture(scope="module")
def model() -> nn.Module:
    return tiny()


def _setup(rank: int = 0, world: int = 1, micro: int = 3, temperature: float = 1.0) -> Setup:
    return Setup(
        prompts=prompt_set(source_of("sums", 7)),
        cursor=Cursor(PLAN, {"sums": 7}, seed=0, group=2),
        folder=Path("nowhere"),
        sampler=None,
        environment=None,
        subject=None,
        tokenizer=None,
        reference=None,
        temperature=temperature,
        micro=micro,
        device=torch.device("cpu"),
        rank=rank,
        world_size=world,
    )


def _drawn(number: int = 7) -> Drawn:
    made = rollouts(number)
    for one in made:
        one.old, one.reference = [], []
    return Drawn(made, 1)


def test_each_token_has_what_its_rollout_gives_alone(model: nn.Module) -> None:
    drawn = _drawn()
    _setup(temperature=0.7).measure("old", model.train(), drawn, PLAN.at(0))
    assert model.training
    for one in drawn.rollouts:
        found, expected = own(one, one.old), alone(model, one, 0.7)[0].detach()
        torch.testing.assert_close(found, expected, rtol=1e-5, atol=1e-6)
        assert len(one.old) == len(one.tokens) and one.reference == []
        assert all(value == 0 for value, mine in zip(one.old, one.learn, strict=True) if not mine)


@pytest.mark.parametrize(("number", "world"), [(6, 2), (7, 2), (7, 3), (2, 4)])
def test_processes_share_them_out_and_all_have_all(
    monkeypatch: pytest.MonkeyPatch, model: nn.Module, number: int, world: int
) -> None:
    expected = _drawn(number)
    _setup().measure("reference", model, expected, PLAN.at(0))
    monkeypatch.setattr(torch.distributed, "all_gather_object", _Together(world))
    found: dict[int, Any] = {}

    def run(rank: int) -> None:
        drawn = _drawn(number)
        # A model of its own: processes share none, and its mode is changed for a while.
        _setup(rank, world).measure("reference", tiny(), drawn, PLAN.at(0))
        found[rank] = drawn

    threads = [threading.Thread(target=run, args=(r,), name=str(r)) for r in range(world)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(found) == world
    for drawn in found.values():
        for one, its in zip(drawn.rollouts, expected.rollouts, strict=True):
            assert one.reference == pytest.approx(its.reference, abs=1e-6)


def test_the_cursor_comes_back(tmp_path: Path) -> None:
    setup, again = _setup(), _setup()
    setup.cursor.take("one", 5)
    setup.write(tmp_path, _drawn())
    again.restore(tmp_path, None)
    assert again.cursor.state() == setup.cursor.state()
    assert Drawn.read(tmp_path).rollouts == _drawn().rollouts


@pytest.mark.parametrize("content", [None, "{", "{}"])
def test_a_checkpoint_without_a_cursor(tmp_path: Path, content: str | None) -> None:
    if content is not None:
        (tmp_path / CURSOR).write_text(content)
    with pytest.raises(CheckpointError, match=rf"{CURSOR} cannot be read"):
        _setup().restore(tmp_path, None)
