"""Numbers and expressions are read exactly, or not at all."""

from fractions import Fraction

import pytest

from plm.process.arithmetic import expression, number, squeezed


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("24", 24), ("24.0", 24), ("-3", -3), ("\u22123", -3), ("1,000", 1000), (".5", "1/2"),
        ("$4", 4), ("80%", 80), ("1/2", "1/2"), ("\\frac{1}{2}", "1/2"), ("\\dfrac{3}{6}", "1/2"),
        ("$-\\frac{1}{2}$", "-1/2"), ("1,00", None), ("1/0", None), ("", None), ("2 4", 24),
        ("\uff12\uff14", None), ("1e5", None), ("9" * 500, None), ("1/2/3", None), ("x", None),
    ],
)  # fmt: skip
def test_numbers(text: str, value: object):
    assert number(text) == (None if value is None else Fraction(value))


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("2 x 16", 32), ("2 \u00d7 16", 32), ("(2+3)*4 - -1", 21), ("$5 * 3", 15),
        ("1/3 + 1/6", "1/2"), ("1,000-1", 999), ("2 \\cdot 3", 6), ("1/0", None), ("2^3", None),
        ("(2", None), ("2)", None),
        ("2 +", None), ("", None), ("(" * 60 + "1" + ")" * 60, None), ("-" * 80 + "1", None),
        ("__import__('os')", None), ("2+" * 100 + "2", None),
    ],
)  # fmt: skip
def test_expressions(text: str, value: object):
    found = expression(text)
    assert (found and found.value) == (None if value is None else Fraction(value))


def test_an_expression_is_more_than_its_value():
    assert expression("24 + 48") == expression("48.0+24") != expression("36 + 36")
    assert expression("72") != expression("48 + 24")


def test_space_and_signs_of_a_formula_do_not_count():
    assert squeezed("$ 2 \\cdot x $.") == squeezed("2*x") == "2*x"
