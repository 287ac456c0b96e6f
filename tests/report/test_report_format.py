"""Numbers as a person reads them."""

import pytest

from plm.report.format import axis_labels, human_share, human_time, human_tokens, log_labels


@pytest.mark.parametrize(
    ("count", "text"),
    [
        (0, "0"),
        (7, "7"),
        (999, "999"),
        (999.7, "1.00k"),
        (12_345, "12.3k"),
        (1_234_567, "1.23M"),
        (9_999_999, "10.0M"),
        (999_999, "1.00M"),
        (280_000_000_000, "280B"),
        (1_650_000_000_000, "1.65T"),
        (-1_500, "-1.50k"),
    ],
)
def test_tokens(count, text):
    assert human_tokens(count) == text


@pytest.mark.parametrize(
    ("seconds", "text"),
    [
        (0, "0:00"),
        (-3, "0:00"),
        (70, "1:10"),
        (59.6, "1:00"),
        (3725, "1:02:05"),
        (90_061, "1d 1:01:01"),
    ],
)
def test_time(seconds, text):
    assert human_time(seconds) == text


def test_share():
    assert human_share(0.02449) == "2.4 %"


@pytest.mark.parametrize(
    ("ticks", "labels"),
    [
        ([0, 500_000, 1_000_000, 1_500_000], ["0", "0.5M", "1M", "1.5M"]),
        ([3.0, 3.5, 4.0], ["3.0", "3.5", "4.0"]),
        ([0, 0.0005, 0.001], ["0", "0.0005", "0.0010"]),
        ([0, 1e-4, 2e-4], ["0", "1e-4", "2e-4"]),
        # Neighbours stay apart even where the range is small against the values.
        ([1.650e12, 1.651e12], ["1.65T", "1.651T"]),
    ],
)
def test_axis_labels(ticks, labels):
    assert axis_labels(ticks) == labels


def test_log_labels():
    assert log_labels([0.01, 0.5, 1, 20, 1000]) == ["0.01", "0.5", "1", "20", "1k"]
