"""Estimators against brute force, intervals against published and hand-made values."""

import itertools
import math
import random

import pytest

from plm.evaluation import statistics as s


@pytest.mark.parametrize("samples", [1, 2, 5, 7])
def test_pass_at_k_is_the_share_of_all_draws_with_one_that_is_right(samples: int):
    for correct, k in itertools.product(range(samples + 1), range(1, samples + 1)):
        right = [i < correct for i in range(samples)]
        draws = list(itertools.combinations(right, k))
        share = sum(any(draw) for draw in draws) / len(draws)
        assert s.pass_at_k(samples, correct, k) == pytest.approx(share, abs=1e-14)


def test_pass_at_k_of_many_samples_does_not_overflow():
    assert s.pass_at_k(10_000, 3, 100) == pytest.approx(1 - (0.99**3), rel=1e-3)
    assert s.pass_at_k(10_000, 10_000, 10_000) == 1.0


@pytest.mark.parametrize(
    ("right", "n", "low", "high"),
    # Newcombe (Statistics in Medicine 17, 1998), table I, method 3.
    [
        (81, 263, 0.2553, 0.3662),
        (15, 148, 0.0624, 0.1605),
        (0, 20, 0.0000, 0.1611),
        (1, 29, 0.0061, 0.1718),
    ],
)
def test_wilson_is_the_published_one(right: int, n: int, low: float, high: float):
    assert s.wilson(right, n) == pytest.approx((low, high), abs=5e-5)
    assert s.wilson(n - right, n) == pytest.approx((1 - high, 1 - low), abs=5e-5)


def test_wilson_of_nothing_says_nothing():
    assert s.wilson(0, 0) == (0.0, 1.0)
    assert s.wilson(0, 100)[0] == 0.0 and s.wilson(100, 100)[1] == 1.0


def test_mean_of_zeros_and_ones():
    found = s.mean_of([1.0, 0.0, 1.0, 1.0], seed=0)
    assert found.value == 0.75 and found.interval == "wilson" and found.n == 4
    assert found.error == pytest.approx(math.sqrt(0.75 * 0.25 / 4))
    assert (found.low, found.high) == s.wilson(3, 4)


def test_mean_of_shares_uses_the_bootstrap_with_its_seed():
    draw = random.Random(1)
    values = [draw.random() for _ in range(200)]
    found = s.mean_of(values, seed=3)
    assert found.interval == "bootstrap" and found == s.mean_of(values, seed=3)
    assert found != s.mean_of(values, seed=4)
    # For so many items the percentiles are near those of the normal distribution.
    assert found.low == pytest.approx(found.value - 1.96 * found.error, abs=0.2 * found.error)
    assert found.high == pytest.approx(found.value + 1.96 * found.error, abs=0.2 * found.error)


def test_bootstrap_of_many_items_is_drawn_in_parts():
    values = [0.25, 0.75] * 4000
    low, high = s.bootstrap(values, 0)
    error = 0.25 / math.sqrt(len(values))
    assert (low, high) == pytest.approx((0.5 - 1.96 * error, 0.5 + 1.96 * error), abs=0.3 * error)


def test_no_items_give_no_figure():
    assert math.isnan(s.mean_of([], 0).value) and math.isnan(s.ratio_of([], []).value)


def test_ratio_by_hand():
    found = s.ratio_of([2.0, 6.0], [1.0, 3.0])
    assert found.value == 2.0 and found.error == 0.0
    found = s.ratio_of([1.0, 5.0], [1.0, 1.0])
    # A plain mean where all sizes are one: deviation sqrt(8) over sqrt(2).
    assert found.value == 3.0 and found.error == pytest.approx(2.0)
    assert found.high == pytest.approx(3 + 1.96 * 2, abs=1e-3)


@pytest.mark.parametrize(
    ("few", "many", "p"),
    # (1 + 10) / 1024 doubled; 1 / 32 doubled; equal numbers are at most 1.
    [(1, 9, 22 / 1024), (0, 5, 2 / 32), (4, 4, 1.0), (0, 0, 1.0), (0, 1, 1.0)],
)
def test_mcnemar_by_hand(few: int, many: int, p: float):
    assert s.mcnemar(few, many) == pytest.approx(p) == s.mcnemar(many, few)


def test_mcnemar_of_many_pairs_does_not_overflow():
    assert 0 < s.mcnemar(1000, 1200) < 1e-4


@pytest.mark.parametrize(
    ("differences", "p"),
    [
        ([0.7], 2 / 2),
        # Only all of one sign are as far from 0, both ways.
        ([0.1, 0.2, 0.3], 2 / 8),
        ([0.1, 0.2, 0.3, 0.4], 2 / 16),
        # Of sums ±.1 ±.2 ±.4, those of at least .5 in size: .7, .5 and their opposites.
        ([-0.1, 0.2, 0.4], 4 / 8),
        # Ties count though their sums round differently: |±.1 ±.1 ±.1| is at least .1 always.
        ([0.1, 0.1, -0.1], 8 / 8),
        ([0.0, 0.3, 0.0, 0.2, 0.1], 2 / 8),
        ([0.0] * 9, 1.0),
        ([], 1.0),
    ],
)
def test_sign_flip_by_hand(differences: list[float], p: float):
    assert s.sign_flip(differences, 0) == p == s.sign_flip([-d for d in differences], 1)


def test_sign_flip_drawn_is_near_the_exact_one(monkeypatch: pytest.MonkeyPatch):
    values = [0.5, -0.25, 0.75, 0.5, 1.0, -0.5, 0.25, 0.5, 0.125]
    exact = s.sign_flip(values, 0)
    monkeypatch.setattr(s, "EXACT_ITEMS", 0)
    drawn = s.sign_flip(values, 0)
    # Three deviations of a share of so many draws.
    assert drawn == pytest.approx(exact, abs=3 * math.sqrt(exact / s.FLIPS)) and drawn != exact
    assert s.sign_flip([0.5, 0.25, 0.5, 0.25] * 10, 0) == 1 / (s.FLIPS + 1)
    assert s.sign_flip([0.5, -0.5] * 20, 0) == 1.0
    # Drawn in parts that fit the memory.
    assert s.sign_flip([0.5, -0.25] * 3000, 0) == 1 / (s.FLIPS + 1)


@pytest.mark.parametrize("n", [2, 4, 7, 14])
def test_few_items_do_not_find_what_is_not_there(n: int):
    """Of 400 pairs without a difference about 5 % may be called one; the bootstrap called more."""
    draw, false = random.Random(n), 0
    for _ in range(400):
        false += s.sign_flip([draw.choice((-1, 1)) * draw.random() for _ in range(n)], 0) <= 0.05
    # 20 are expected at most; 3 deviations above.
    assert false <= 20 + 3 * math.sqrt(400 * 0.05 * 0.95)


def test_normal_p():
    assert s.normal_p(1.959964, 1.0) == pytest.approx(0.05, abs=1e-6)
    assert s.normal_p(0.0, 0.0) == 1.0 and s.normal_p(1.0, 0.0) == 0.0
    assert math.isnan(s.normal_p(1.0, math.nan))
