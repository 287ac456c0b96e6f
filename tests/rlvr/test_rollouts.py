"""Rollouts in a checkpoint: every number comes back as it was."""

import json
import math
from pathlib import Path

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from plm.errors import CheckpointError
from plm.rlvr.rollouts import FILE, Drawn
from tests.rlvr.made import rollout, rollouts

FLOATS = st.lists(
    st.one_of(st.floats(allow_nan=False), st.floats(width=32, allow_nan=False)), min_size=1
)


@settings(
    max_examples=40, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
@given(FLOATS, st.text())
def test_floats_and_texts_come_back_exactly(tmp_path: Path, values: list[float], text: str) -> None:
    size = len(values)
    made = rollout([1], [2] * size, sampled=values, old=values, text=text, reward=values[0])
    made.rewards, made.told = {"right": values[0]}, {"turns": values[-1]}
    Drawn([made], 1).write(tmp_path)
    (found,) = Drawn.read(tmp_path).rollouts
    assert found == made
    # Of two zeros the sign counts, too.
    assert [math.copysign(1, v) for v in found.old] == [math.copysign(1, v) for v in values]


def test_single_precision_comes_back(tmp_path: Path) -> None:
    values = np.random.default_rng(0).normal(size=50).astype(np.float32)
    Drawn([rollout([1], [2] * 50, sampled=values.tolist())], 1).write(tmp_path)
    found = np.array(Drawn.read(tmp_path).rollouts[0].sampled, dtype=np.float32)
    assert (found == values).all()


def test_order_and_group_come_back(tmp_path: Path) -> None:
    made = Drawn(rollouts(6), 2, {"groups": 3})
    made.write(tmp_path)
    found = Drawn.read(tmp_path)
    assert found.rollouts == made.rollouts and found.group == 2


def test_lengths() -> None:
    made = rollout([1, 2, 3], [4, 5, 6, 7], learn=[1, 0, 0, 1])
    assert made.length == 7 and made.chosen == 2


def test_a_checkpoint_without_rollouts(tmp_path: Path) -> None:
    with pytest.raises(CheckpointError, match=rf"{FILE} is missing: it is of another stage"):
        Drawn.read(tmp_path)


@pytest.mark.parametrize(
    "content", ["{", '{"group": 2}', '{"group": 2, "rollouts": [{"prompt": [1]}]}', "[]"]
)
def test_a_damaged_file(tmp_path: Path, content: str) -> None:
    (tmp_path / FILE).write_text(content)
    with pytest.raises(CheckpointError, match=rf"{FILE} is damaged"):
        Drawn.read(tmp_path)


def test_the_file_is_plain_json(tmp_path: Path) -> None:
    Drawn(rollouts(2), 2).write(tmp_path)
    assert set(json.loads((tmp_path / FILE).read_text())) == {"group", "rollouts"}
