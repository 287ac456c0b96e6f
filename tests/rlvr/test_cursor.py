"""The line of prompts: pure, fair to its mixture, and the same after a checkpoint."""

import json
from collections import Counter

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from plm.errors import ConfigError
from plm.phases import Plan
from plm.rlvr.cursor import Cursor
from tests.rlvr.made import phase, plan_of

SIZES = {"sums": 7, "words": 11}
BOTH = {"sums": 3, "words": 1}


def _cursor(seed: int = 0, **settings) -> Cursor:
    plan = plan_of(first=BOTH, second={"words": 1})
    return Cursor(plan, SIZES, seed=seed, group=4, **settings)


@settings(max_examples=30, deadline=None)
@given(st.lists(st.integers(0, 9), max_size=6))
def test_how_many_are_taken_at_a_time_changes_nothing(numbers: list[int]) -> None:
    pieces, whole = _cursor(), _cursor()
    found = [draw for number in numbers for draw in pieces.take("first", number)]
    assert found == whole.take("first", sum(numbers))
    assert pieces.state() == whole.state()


def test_draws_are_numbered_over_the_whole_run() -> None:
    cursor = _cursor()
    found = [*cursor.take("first", 5), *cursor.take("second", 4)]
    assert [draw.number for draw in found] == list(range(9))


def test_each_epoch_has_every_prompt_once_in_an_order_of_its_own() -> None:
    cursor = Cursor(plan_of(only={"sums": 1}), SIZES, seed=0, group=4)
    draws = cursor.take("only", 21)
    epochs = [[d.item for d in draws if d.epoch == epoch] for epoch in range(3)]
    assert [sorted(epoch) for epoch in epochs] == [list(range(7))] * 3
    assert len({tuple(epoch) for epoch in epochs}) == 3
    assert cursor.epochs() == {"sums": 3.0} and cursor.cursors(99) == {"sums": 21}


def test_another_seed_is_another_order() -> None:
    assert _cursor(0).take("first", 20) != _cursor(1).take("first", 20)


def test_every_stretch_keeps_to_the_mixture() -> None:
    draws = _cursor().take("first", 40)
    for number in range(1, 41):
        counts = Counter(draw.source for draw in draws[:number])
        assert abs(counts["sums"] - 0.75 * number) < 1


def test_the_phases_have_their_own_mixtures_and_one_line_of_prompts() -> None:
    cursor = _cursor()
    first, second = cursor.take("first", 8), cursor.take("second", 5)
    assert {draw.source for draw in second} == {"words"}
    words = [draw.item for draw in [*first, *second] if draw.source == "words"]
    assert len(words) == len(set(words)) == 7


def test_a_phase_that_comes_again_begins_its_mixture_anew() -> None:
    cursor = _cursor()
    one = [draw.source for draw in cursor.take("first", 5)]
    cursor.take("second", 1)
    assert [draw.source for draw in cursor.take("first", 5)] == one


@pytest.mark.parametrize("before", [0, 1, 5, 23])
def test_goes_on_from_a_checkpoint(before: int) -> None:
    undisturbed, cursor = _cursor(), _cursor()
    for one in (undisturbed, cursor):
        one.take("first", before)
    again = _cursor()
    again.load(json.loads(json.dumps(cursor.state())))
    for name, number in (("first", 9), ("second", 30)):
        assert again.take(name, number) == undisturbed.take(name, number)
    assert again.state() == undisturbed.state()


def test_begins_where_another_run_has_left_off() -> None:
    first = Cursor(plan_of(only={"sums": 1}), SIZES, seed=0, group=4)
    whole = first.take("only", 12)
    later = Cursor(plan_of(only={"sums": 1}), SIZES, seed=0, group=4, cursors={"sums": 5})
    assert [(d.item, d.epoch) for d in later.take("only", 7)] == [
        (d.item, d.epoch) for d in whole[5:]
    ]


def test_what_a_run_tells_of_its_sources() -> None:
    cursor = _cursor()
    cursor.take("first", 8)
    assert cursor.told() == {
        "sums": {"asked_share": 0.375, "prompts_drawn": 6, "epochs": 6 / 7},
        "words": {"asked_share": 0.625, "prompts_drawn": 2, "epochs": 2 / 11},
    }


def test_a_source_that_is_not_there() -> None:
    line = r"phases\.only\.mixture\.maths is not a source of prompts; there are: sums, words"
    with pytest.raises(ConfigError, match=line):
        Cursor(plan_of(only={"maths": 1}), SIZES, seed=0, group=4)


def test_a_mixture_that_changes() -> None:
    plan = Plan.read({"only": phase({"sums": 1}, mixture_to={"words": 1})})
    with pytest.raises(ConfigError, match=r"phases\.only\.mixture_to: .*use two phases"):
        Cursor(plan, SIZES, seed=0, group=4)
