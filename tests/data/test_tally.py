"""Counts add up in order, whoever made them."""

import json

from plm.data.tally import EXAMPLES, EXCERPT, Tally


def test_by_hand():
    first, second = Tally(), Tally()
    assert not first
    first.drop("short", "a", "x")
    second.drop("short", "b", "yy" * EXCERPT)
    second.drop("long", "b", "z", why="9; 8 words")
    first.drop("long", "a", "z")
    second.change("address", "c", "at <mail>", places=2)
    for name in "defg":
        second.drop("short", name, "z")
    first.add(second)
    assert first.dropped == {"short": 6, "long": 2}
    assert first.lost == {"short": 1 + 2 * EXCERPT + 4, "long": 2}
    assert first.changed == {"address": 2}
    assert [name for name, _ in first.examples["short"]] == ["a", "b", "d"]
    assert len(first.examples["short"]) == EXAMPLES
    assert len(first.examples["short"][1][1]) == EXCERPT


def test_comes_back_from_json():
    tally = Tally()
    tally.drop("short", "a", "x", why="1 word")
    tally.drop("short", "b", "x", why="2 words")
    tally.change("address", "c", "at <mail>")
    again = Tally.of(json.loads(json.dumps(tally.plain())))
    assert again.plain() == tally.plain()
    again.add(tally)
    assert [name for name, _ in again.examples["short"]] == ["a", "b", "a"]
    # Of the first one alone.
    assert again.why == {"short": "1 word"}
