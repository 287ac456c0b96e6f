"""What may be masked of a text, and what of it can be copied."""

import pytest

from plm.process.spans import KINDS, Seen, spans

NUMBERS = {
    "plain": ("3 of 4.50, 1,000 and .5", ["3", "4.50", "1,000", ".5"]),
    "signs": ("is -5, 7 -3, 7-3, (-2) and 3-page", ["-5", "7", "3", "7", "3", "-2", "3"]),
    "money and percent": ("$24 and 80%", ["24", "80"]),
    "at the end": ("It is 12.", ["12"]),
    "fractions": ("1/2 of 48/2 = 24", ["1/2", "48", "2", "24"]),
    "glued to letters": ("30cm, x2, 2nd, v1.2.3", []),
    "before steps": ("1. Take 5\nStep 2: 6", ["5", "6"]),
    "lists": ("2,3 and [4, 5]", ["2", "3", "4", "5"]),
}


@pytest.mark.parametrize(("text", "found"), NUMBERS.values(), ids=NUMBERS.keys())
def test_numbers(text: str, found: list[str]):
    assert [span.gold for span in spans(text, ("number",))] == found


SIDES = {
    "both sides": ("48 + 24 = 70 + 2", ["48 + 24", "70 + 2"]),
    "with money": ("so 0.2 x 50 = $10.", ["0.2 x 50"]),
    "in brackets": ("pens (5+3=8) and 2*(1/3) = 2/3", ["5+3", "2*(1/3)", "2/3"]),
    "no equation": ("from 2 - 3 pages", []),
    "words between": ("2 hours * 24 hours = 48", []),
}


@pytest.mark.parametrize(("text", "found"), SIDES.values(), ids=SIDES.keys())
def test_sides_of_equations(text: str, found: list[str]):
    assert [span.gold for span in spans(text, ("expression",))] == found


def test_formulas_and_theorems():
    text = "By the Pythagorean theorem and Fermat's Little Theorem, $x^2 = 4$ \\[ y \\] for $5."
    found = [(span.kind, span.gold) for span in spans(text, ("latex", "theorem"))]
    assert found == [
        ("theorem", "Pythagorean theorem"),
        ("theorem", "Fermat's Little Theorem"),
        ("latex", "x^2 = 4"),
        ("latex", "y"),
    ]


def test_the_places_are_those_of_the_text():
    text = "So 1/2 of $x^2$ is 48 / 2 = 24."
    found = spans(text)
    assert all(text[span.start : span.end] == span.gold for span in found)
    assert {span.kind for span in found} == set(KINDS) - {"theorem"}


def leaks(question: str, text: str, gold: str, kind: str) -> bool:
    span = next(s for s in spans(text, (kind,)) if s.gold == gold)
    return bool(Seen(question, text).leaking([[span]]))


@pytest.mark.parametrize(
    ("question", "text", "gold", "kind", "leaking"),
    [
        ("Has 24.0 pens", "so 24", "24", "number", True),
        ("Has 24cm", "so 24", "24", "number", True),
        ("Has 124 or 2.4", "so 24", "24", "number", False),
        ("", "so 24, again 24", "24", "number", True),
        ("A fall of 5", "so -5", "-5", "number", True),
        ("", "1,000 and 1000", "1,000", "number", True),
        ("Half: 1/2", "0.5 of it", "0.5", "number", True),
        ("Work out 712 + 643.", "712+643 = 1355", "712+643", "expression", True),
        ("Work out 1712 + 643.", "712 + 643 = 1355", "712 + 643", "expression", False),
        ("", "2 x 3 = 6 and 2*3 = 6", "2 x 3", "expression", True),
        ("by Fermat's little Theorem", "Fermat’s Little Theorem holds", "Fermat’s Little Theorem",
         "theorem", True),
        ("Let $x^2 = 4$", "so $x^2=4$", "x^2=4", "latex", True),
        ("Let $x^2 = 40$", "so $x^2=4$", "x^2=4", "latex", False),
    ],
)  # fmt: skip
def test_what_can_be_copied(question: str, text: str, gold: str, kind: str, leaking: bool):
    assert leaks(question, text, gold, kind) is leaking


def test_what_is_hidden_cannot_be_copied():
    text = "24 and 24 = 20 + 4"
    one, other = (span for span in spans(text, ("number",)) if span.gold == "24")
    assert Seen("", text).leaking([[one]]) == [[one]]
    assert Seen("", text).leaking([[one, other]]) == []
