"""Axes, thinning and smoothing, by hand."""

import pytest

from plm.report.axes import (
    calm,
    log_axis,
    nice_step,
    smooth,
    spans_decades,
    thin,
    token_axis,
    value_axis,
)


def test_steps_are_one_two_or_five():
    assert [nice_step(length, 5) for length in (5, 7, 23, 40, 60)] == [1, 2, 5, 10, 20]


def test_value_axis_begins_and_ends_at_a_tick():
    axis = value_axis([3.21, 8.05], 5)
    assert (axis.low, axis.high) == (3, 9)
    assert axis.place(3) == 0 and axis.place(9) == 1 and axis.place(6) == 0.5


@pytest.mark.parametrize("values", [[0.0], [4.0, 4.0], [-2.0], [1e-9]])
def test_a_flat_curve_still_has_an_axis(values):
    axis = value_axis(values, 5)
    assert axis.low <= values[0] <= axis.high and axis.high > axis.low


def test_zero_is_shown_on_request():
    assert value_axis([12_000, 13_000], 5, zero=True).low == 0


def test_token_axis_ends_where_the_run_does():
    axis = token_axis(0, 2_800_000, 6)
    assert axis.high == 2_800_000
    assert axis.labels == ["0", "0.5M", "1M", "1.5M", "2M", "2.5M"]


def test_token_axis_of_a_fork_far_into_a_run():
    axis = token_axis(1.65e12, 1.652e12, 5)
    assert len(set(axis.labels)) == len(axis.labels) >= 3


def test_log_axis_places_equal_ratios_at_equal_distances():
    axis = log_axis([0.1, 100])
    assert (axis.low, axis.high) == (0.1, 100)
    assert axis.place(1) - axis.place(0.1) == pytest.approx(axis.place(100) - axis.place(10))


def test_log_axis_of_one_value():
    axis = log_axis([2.0])
    assert axis.low <= 2 < axis.high


def test_decades():
    assert spans_decades([1, 1, 1, 20])
    assert not spans_decades([1, 2, 3])
    assert not spans_decades([0, 1, 100])
    assert not spans_decades([])


def test_thinning_keeps_ends_and_spikes():
    points = [(float(x), 1.0) for x in range(5000)]
    points[1234] = (1234.0, 90.0)
    points[4000] = (4000.0, -7.0)
    kept = thin(points, 600)
    assert len(kept) <= 600
    assert kept[0] == points[0] and kept[-1] == points[-1]
    assert points[1234] in kept and points[4000] in kept
    assert kept == sorted(kept)


def test_thinning_leaves_a_short_curve_alone():
    points = [(0.0, 1.0), (1.0, 2.0)]
    assert thin(points, 600) == points


def test_smoothing_by_hand():
    points = [(0.0, 0.0), (1.0, 3.0), (2.0, 6.0), (3.0, 0.0)]
    assert smooth(points, 3) == [(0.0, 0.0), (1.0, 3.0), (2.0, 3.0), (3.0, 0.0)]


def test_a_median_ignores_a_spike_that_a_mean_shows():
    points = [(float(x), 50.0 if x == 20 else 1.0) for x in range(40)]
    assert max(y for _, y in calm(points, 5)) == 1
    assert max(y for _, y in smooth(points, 5)) > 10


def test_a_wide_window_costs_few_points_and_keeps_the_last():
    points = [(float(x), 1.0) for x in range(1000)]
    wide = calm(points, 81)
    assert len(wide) == 101 and wide[-1][0] == 999
