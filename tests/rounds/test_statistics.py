"""Figures of a round, counted by hand."""

import json
import random

import pytest

from plm.rounds.statistics import lines, of_round
from tests.rounds.made import prompt

NAN = float("nan")


def _told(change: dict[str, int]) -> tuple[int, int, int]:
    return change["compared"], change["gained"], change["lost"]


def test_turns_by_hand():
    stats = of_round(
        [
            prompt(0, [("aaaa", 0.0), ("bb", 1.0), ("bb ", 1.0)], group="x"),
            prompt(1, [("cccc", 1.0), ("dddddd", 0.0), ("cccc", 1.0)], group="y"),
            prompt(2, [("ee…", 0.0), ("ee…", 0.0)], group="y"),
            prompt(3, group="x"),
        ],
        {"equal scores": 1, "none": 0},
        pairs=2,
    )
    assert [stats[name] for name in ("prompts", "unanswered", "answers", "tokens")] == [4, 1, 8, 29]
    assert stats["binary"] is True and stats["pairs"] == {
        "kept": 2,
        "dropped": {"equal scores": 1, "none": 0},
    }
    first, second, third = stats["turns"]
    assert [turn["turn"] for turn in stats["turns"]] == [0, 1, 2]
    assert [turn["answers"] for turn in stats["turns"]] == [3, 3, 2]
    assert [turn["right_share"] for turn in stats["turns"]] == [1 / 3, 1 / 3, 1.0]
    assert [turn["cut_share"] for turn in stats["turns"]] == [1 / 3, 1 / 3, 0.0]
    assert first["copy_share"] is None and first["length_ratio"] is None
    assert _told(first["against_before"]) == (0, 0, 0)
    # White space at the end does not make another answer.
    assert (second["copy_share"], third["copy_share"]) == (1 / 3, 1 / 2)
    assert (second["length_ratio"], third["length_ratio"]) == (11 / 11, 7 / 8)
    assert _told(second["against_before"]) == _told(second["against_first"]) == (3, 1, 1)
    assert _told(third["against_before"]) == (2, 1, 0)
    assert _told(third["against_first"]) == (2, 1, 0)
    assert list(stats["groups"]) == ["x", "y"]
    assert [t["right_share"] for t in stats["groups"]["y"]["turns"]] == [0.5, 0.0, 1.0]
    assert stats["groups"]["x"]["prompts"] == 2 and stats["groups"]["x"]["unanswered"] == 1


def test_each_chain_is_compared_with_its_own_first_answer():
    stats = of_round([prompt(0, [("a", 1.0), ("b", 0.0)], [("c", 0.0), ("d", 1.0), ("e", 0.0)])])
    assert _told(stats["turns"][1]["against_first"]) == (2, 1, 1)
    assert _told(stats["turns"][2]["against_first"]) == (1, 0, 0)
    assert _told(stats["turns"][2]["against_before"]) == (1, 0, 1)


def test_scores_that_are_missing_or_not_finite_are_counted_apart():
    stats = of_round(
        [
            prompt(0, [("a", None), ("b", 1.0)]),
            prompt(1, [("a", NAN), ("b", float("inf"))]),
            prompt(2, [("a", 0.0), ("b", NAN)]),
        ]
    )
    told = [
        {name: turn[name] for name in ("scored", "unscored", "not_finite", "mean_score")}
        for turn in stats["turns"]
    ]
    assert told == [
        {"scored": 1, "unscored": 1, "not_finite": 1, "mean_score": 0.0},
        {"scored": 1, "unscored": 0, "not_finite": 2, "mean_score": 1.0},
    ]
    assert _told(stats["turns"][1]["against_before"]) == (0, 0, 0)
    json.dumps(stats, allow_nan=False)
    assert "3 scores not finite" in lines(stats)[0]


def test_nothing_scored_and_nothing_sampled():
    unscored = of_round([prompt(0, [("a", None)])])
    assert unscored["binary"] is False and unscored["turns"][0]["mean_score"] is None
    nothing = of_round([])
    assert nothing["turns"] == [] and nothing["answers"] == 0
    assert lines(nothing)[0] == "0 prompts, 0 answers, 0 tokens"


def test_bins_hold_every_score_once():
    scores = [index / 100 for index in range(101)]
    stats = of_round(prompt(i, [("a", score)]) for i, score in enumerate(scores))
    assert stats["edges"] == [index / 10 for index in range(11)]
    # An edge belongs to the bin above it, but for the last.
    assert stats["turns"][0]["distribution"] == [10] * 9 + [11]
    assert stats["binary"] is False and stats["turns"][0]["right_share"] is None
    assert stats["turns"][0]["mean_score"] == pytest.approx(0.5, abs=1e-15)


def test_bins_reach_as_far_as_scores_outside_0_and_1():
    stats = of_round([prompt(0, [("a", -1.5), ("b", 0.5)]), prompt(1, [("a", 2.5)])])
    assert stats["edges"][0] == -2 and stats["edges"][-1] == 3
    assert stats["turns"][0]["distribution"] == [0, 1, 0, 0, 0, 0, 0, 0, 0, 1]
    assert stats["turns"][1]["distribution"] == [0, 0, 0, 0, 0, 1, 0, 0, 0, 0]


def test_the_order_of_prompts_changes_nothing():
    draw = random.Random(0)
    some = [
        prompt(i, [(str(i), draw.random()) for _ in range(1 + i % 3)], group=f"g{i % 2}")
        for i in range(40)
    ]
    turned = of_round(some[::-1])
    assert of_round(iter(some)) == turned and turned["turns"][2]["answers"] == 13


def test_lines_line_up():
    some = [prompt(0, [("a", 0.0), ("b", 1.0)], group="sums"), prompt(1, [("a", 1.0), ("a", 1.0)])]
    told = lines(of_round(some, {"equal": 3, "none": 0}, pairs=1_000))
    assert told[0] == "2 prompts, 4 answers, 4 tokens; 1,000 pairs kept; prompts without: equal 3"
    assert told[1].split() == (
        "group turn answers tokens right w→r r→w w→r/0 r→w/0 copied length cut".split()
    )
    assert told[3].split() == (
        "all 1 2 1.0 100.0 % 50.0 % 0.0 % 50.0 % 0.0 % 50.0 % 1.000 0.0 %".split()
    )
    assert [line.split()[:3] for line in told[2:]] == [
        ["all", "0", "2"],
        ["all", "1", "2"],
        ["sums", "0", "1"],
        ["sums", "1", "1"],
    ]
    assert len({len(line) for line in told[1:]}) == 1
    graded = lines(of_round([prompt(0, [("a", 0.25), ("b", 1.0)])]))
    assert graded[1].split()[4:7] == ["score", "gained", "lost"] and "0.250" in graded[2]
