import json
import math
from collections import Counter
from pathlib import Path

import pytest

from plm.errors import ConfigError
from plm.evaluation.gsm8k import gsm8k
from plm.pairing.best_worst import best_worst
from plm.reward.common import Example, score
from plm.reward.verifier import verifier
from plm.rounds.common import Answer
from tests.pairing.made import answers, check_account


def test_the_highest_against_the_lowest():
    found = best_worst(answers(0.5, 0.9, 0.1, 0.4))
    assert found.pairs == [(1, 2)] and found.unused == {"not chosen": 2} and not found.dropped


def test_exchanged_scores_exchange_the_pair():
    assert best_worst(answers(0.2, 0.7)).pairs == [(1, 0)]
    assert best_worst(answers(0.7, 0.2)).pairs == [(0, 1)]


def test_of_equal_scores_the_first_comes_first():
    assert best_worst(answers(0, 1, 0, 1)).pairs == [(1, 0)]
    assert best_worst(answers(0, 1, 0, 1), max_pairs=2).pairs == [(1, 0), (3, 2)]


def test_no_answer_is_in_two_pairs_and_no_pair_has_equal_scores():
    given = answers(0.5, 0.5, 1.0, 0.5, 0.0, 0.6)
    found = best_worst(given, max_pairs=None)
    assert found.pairs == [(2, 4), (5, 0)] and found.unused == {"not chosen": 2}
    assert best_worst(given, max_pairs=9).pairs == found.pairs
    check_account(given, found)


def test_a_least_difference_ends_the_pairs():
    given = answers(1.0, 0.75, 0.5, 0.0)
    assert best_worst(given, max_pairs=2, min_margin=0.25).pairs == [(0, 3), (1, 2)]
    assert best_worst(given, max_pairs=2, min_margin=0.26).pairs == [(0, 3)]
    assert best_worst(given, min_margin=1.01).dropped == {"difference below min_margin": 1}


def test_a_score_that_is_no_number_is_left_out():
    found = best_worst(answers(math.nan, 0.2, 0.8, math.inf, None))
    assert found.pairs == [(2, 1)] and found.unused == {"no score": 3}


def test_settings_are_checked():
    with pytest.raises(ConfigError, match=r"pairing\.max_pairs=0"):
        best_worst([], max_pairs=0)
    with pytest.raises(ConfigError, match=r"pairing\.min_margin=-1"):
        best_worst([], min_margin=-1)


def test_real_solutions_of_four_models_are_accounted_for(test_data: Path):
    task = gsm8k(str(test_data / "gsm8k"))
    items = {item.question: item for item in task.items}
    told = (test_data / "gsm8k/model_solutions.jsonl").open(encoding="utf-8")
    rows = [row for row in map(json.loads, told) if row["question"].strip() in items]
    names = [f"{size}_{kind}" for size in ("6b", "175b") for kind in ("finetuning", "verification")]
    used = pairs = 0
    unused, dropped = Counter(), Counter()
    for row in rows:
        item = items[row["question"].strip()]
        texts = [row[name]["solution"].replace("\nA:", "\nAnswer:") for name in names]
        given = [Answer(text, 0, n, 1, False) for n, text in enumerate(texts)]
        examples = [Example(item.question, item, False, task.grade)] * len(texts)
        for answer, value in zip(given, score(verifier, texts, examples), strict=True):
            answer.score = value
        found = best_worst(given, max_pairs=2)
        assert all((given[b].score, given[w].score) == (1.0, 0.0) for b, w in found.pairs)
        used, pairs = used + len(found.used), pairs + bool(found.pairs)
        unused, dropped = unused + found.unused, dropped + found.dropped
    assert len(rows) > 1300 and used + unused.total() == 4 * len(rows)
    assert pairs + dropped.total() == len(rows)
    assert set(dropped) == {"all right", "all wrong"} and pairs > 500
