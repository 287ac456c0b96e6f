"""Numbers as people read them."""

import pytest

from plm.evaluation.table import number


@pytest.mark.parametrize(
    ("value", "said"),
    [
        (None, "–"),
        (float("nan"), "–"),
        (0.0, "0.0000"),
        (0.5, "0.5000"),
        (1e-4, "0.0001"),
        (3.26e-13, "3.3e-13"),
        (-2e-5, "-2.0e-05"),
        (99.99999, "100.0000"),
        (184.64, "184.6"),
        (float("inf"), "inf"),
    ],
)
def test_numbers(value: float | None, said: str):
    assert number(value) == said
