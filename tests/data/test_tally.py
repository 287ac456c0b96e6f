"""Counts add up in order, whoever made them."""

import json

from plm.data.tally import EXAMPLES, EXCERPT, Tally


def test_by_hand():
    first, second = Tally(), Tally()
    assert not first
    first.drop("short", "a", "x")
    second.drop("short", "b", "yy" * EXCERPT)
    second.change("address", "c", "at <mail>", places=2)
    for name in "defg":
        second.drop("short", name, "z")
    first.add(second)
    assert first.dropped == {"short": 6}
    assert first.lost == {"short": 1 + 2 * EXCERPT + 4}
    assert first.changed == {"address": 2}
    assert [name for name, _ in first.examples["short"]] == ["a", "b", "d"]
    assert len(first.examples["short"]) == EXAMPLES
    assert len(first.examples["short"][1][1]) == EXCERPT


def test_comes_back_from_json():
    tally = Tally()
    tally.drop("short", "a", "x")
    tally.change("address", "c", "at <mail>")
    again = Tally.of(json.loads(json.dumps(tally.plain())))
    assert again.plain() == tally.plain()
    again.add(tally)
    assert again.examples["short"] == [("a", "x"), ("a", "x")]
