"""Numbers and sums of them, exactly: what two forms of an answer are worth.

Nothing is approximated and no formula is simplified: what cannot be read here is equal to its own
text only. The texts are strangers': their length is bounded, and only ASCII's digits count.
"""

import re
from fractions import Fraction
from typing import NamedTuple

LONGEST = 120
"""Letters of a number or an expression; more are neither."""
_SIGNS = str.maketrans({"\u2212": "-", "\u00d7": "*", "\u00b7": "*", "\u00f7": "/"})
_SPACE = re.compile(r"\s+|\\[,;! ]|\\left|\\right")
_OF_LATEX = ((r"\cdot", "*"), (r"\times", "*"), (r"\div", "/"), (r"\dfrac", r"\frac"))
_FRAC = re.compile(r"\\[td]?frac\{(-?[\d.]+)\}\{([\d.]+)\}")
_BETWEEN = re.compile(r"(?<=[\d)])[xX](?=[\d(.])")
_NUMBER = re.compile(r"[-+]?(?:\d{1,3}(?:,\d{3})+|\d+)?(?:\.\d+)?")
_TOKEN = re.compile(r"(?:\d{1,3}(?:,\d{3})+(?!\d)|\d+)(?:\.\d+)?|\.\d+|[-+*/()]")
_DEEPEST = 20


class Sum(NamedTuple):
    """An expression of numbers.

    Attributes:
        value: exact.
        parts: its numbers and operators, sorted; brackets are left out.
    """

    value: Fraction
    parts: tuple[str, ...]


def plain_signs(text: str) -> str:
    """Minus, times and division as ASCII has them."""
    return text if text.isascii() else text.translate(_SIGNS)


def squeezed(text: str) -> str:
    """A formula without white space, dollar signs and emphasis, its operators as ASCII has them."""
    text = _SPACE.sub("", plain_signs(text)).replace("$", "").strip("*`")
    for latex, plain in _OF_LATEX:
        text = text.replace(latex, plain)
    text = text.removeprefix(r"\(").removesuffix(r"\)")
    return _BETWEEN.sub("*", text).removesuffix(".")


def number(text: str) -> Fraction | None:
    r"""A number: -3, 1,000, .5, $4, 80%, 1/2 or \frac{1}{2}; None where it is anything else.

    The sign % says no more than a unit does: 80% is 80.
    """
    return _number(text) if len(text) <= LONGEST else None


def _number(text: str) -> Fraction | None:
    plain = _FRAC.sub(r"\1/\2", squeezed(text)).removesuffix("%").removesuffix("\\")
    over, slash, under = plain.partition("/")
    above, below = _decimal(over), _decimal(under) if slash else Fraction(1)
    return None if above is None or not below else above / below


def _decimal(text: str) -> Fraction | None:
    if not text.isascii() or not _NUMBER.fullmatch(text) or not text[-1:].isdigit():
        return None
    return Fraction(text.replace(",", ""))


def expression(text: str) -> Sum | None:
    """A sum, product or quotient of numbers; None for anything else, a power included."""
    if len(text) > LONGEST or not plain_signs(text).isascii():
        return None
    plain = squeezed(text).replace("%", "")
    tokens = _TOKEN.findall(plain)
    if "".join(tokens) != plain or not tokens:
        return None
    try:
        value, rest = _terms(tokens, 0, 0)
    except (IndexError, ValueError, ZeroDivisionError):
        return None
    parts = [_plain(token) for token in tokens if token not in "()"]
    return Sum(value, tuple(sorted(parts))) if rest == len(tokens) else None


def _plain(token: str) -> str:
    return token if token in "+-*/" else str(Fraction(token.replace(",", "")))


def _terms(tokens: list[str], at: int, depth: int) -> tuple[Fraction, int]:
    total, at = _product(tokens, at, depth)
    while at < len(tokens) and tokens[at] in "+-":
        sign = tokens[at]
        value, at = _product(tokens, at + 1, depth)
        total = total + value if sign == "+" else total - value
    return total, at


def _product(tokens: list[str], at: int, depth: int) -> tuple[Fraction, int]:
    total, at = _atom(tokens, at, depth)
    while at < len(tokens) and tokens[at] in "*/":
        sign = tokens[at]
        value, at = _atom(tokens, at + 1, depth)
        total = total * value if sign == "*" else total / value
    return total, at


def _atom(tokens: list[str], at: int, depth: int) -> tuple[Fraction, int]:
    token = tokens[at]
    if depth > _DEEPEST:
        raise ValueError(token)
    if token in "+-":
        value, at = _atom(tokens, at + 1, depth + 1)
        return (value if token == "+" else -value), at
    if token == "(":
        value, at = _terms(tokens, at + 1, depth + 1)
        if tokens[at] != ")":
            raise ValueError(tokens[at])
        return value, at + 1
    # An operator where a number should be is no number: ValueError.
    return Fraction(token.replace(",", "")), at + 1
