import math
from collections import Counter

import pytest

from plm.errors import ConfigError
from plm.pairing.all_pairs import all_pairs
from tests.pairing.made import answers, check_account


def test_every_two_whose_scores_differ():
    given = answers(0.5, 1.0, 0.0, 0.5)
    found = all_pairs(given)
    assert found.pairs == [(0, 2), (1, 0), (1, 2), (1, 3), (3, 2)] and not found.unused
    check_account(given, found)


def test_exchanged_scores_exchange_every_pair():
    scores = [0.5, 1.0, 0.0, 0.5]
    there = all_pairs(answers(*scores)).pairs
    back = all_pairs(answers(*(1 - score for score in scores))).pairs
    assert sorted(back) == sorted((worse, better) for better, worse in there)


def test_a_part_of_them_is_spread_over_the_answers():
    given = answers(1, 1, 0, 0, 0, 0)
    assert len(all_pairs(given, max_pairs=None).pairs) == 8
    found = all_pairs(given, max_pairs=4)
    assert found.pairs == all_pairs(given, max_pairs=4).pairs
    uses = Counter(index for pair in found.pairs for index in pair)
    assert uses == {0: 2, 1: 2, 2: 1, 3: 1, 4: 1, 5: 1}
    check_account(given, found)
    assert all_pairs(given, max_pairs=2).unused == {"not chosen": 2}


def test_the_whole_is_taken_where_it_is_no_more_than_allowed():
    given = answers(1, 0, 0)
    for most in (2, 3, None):
        assert all_pairs(given, max_pairs=most).pairs == [(0, 1), (0, 2)]


def test_a_least_difference_and_scores_that_are_none():
    given = answers(1.0, 0.5, 0.0, math.nan)
    assert all_pairs(given, min_margin=0.75).pairs == [(0, 2)]
    found = all_pairs(given, min_margin=2)
    assert found.dropped == {"difference below min_margin": 1}
    assert found.unused == {"difference below min_margin": 3, "no score": 1}


def test_settings_are_checked():
    with pytest.raises(ConfigError, match=r"pairing\.max_pairs=0"):
        all_pairs([], max_pairs=0)
    with pytest.raises(ConfigError, match=r"pairing\.min_margin=-1"):
        all_pairs([], min_margin=-1)
