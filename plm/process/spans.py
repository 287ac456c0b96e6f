"""What a solution is about: its numbers, expressions, formulas and named theorems, and where."""

import re
from collections.abc import Sequence
from functools import cached_property, lru_cache
from typing import NamedTuple

from plm.process.arithmetic import LONGEST, expression, number, plain_signs, squeezed
from plm.process.steps import MARK, formulas

KINDS = ("number", "expression", "latex", "theorem")
# No digit, so that the holes' numbers are none of the text's.
HIDDEN = "\u25a1"
_TIMES = re.compile(r"(?<=[\d)])\s*[xX]\s*(?=[\d(.])")
_AROUND = re.compile(r"\s*([^\w\s])\s*")
_DIGITS = r"(?:(?:\d{1,3}(?:,\d{3})+(?!\d)|\d+)(?:\.\d+)?|(?<!\d)\.\d+)"
_NUMBER = re.compile(rf"(?<![\w.]){_DIGITS}(?!\w|\.\d)", re.ASCII)
_VISIBLE = re.compile(_DIGITS, re.ASCII)
_FRACTION = re.compile(r"\d+/[1-9]\d*", re.ASCII)
_OPERAND = rf"\(*\$?{_DIGITS}%?\)*"
_OPERATOR = r"[ \t]*[-+*/x\u00d7\u00f7\u2212\u00b7][ \t]*"
_CHAIN = re.compile(
    rf"(?<![\w.])(?<!\d,){_OPERAND}(?:{_OPERATOR}{_OPERAND}){{1,20}}"
    r"(?!\w|\.\d|,\d)",
    re.ASCII,
)
_EQUALS_BEHIND = re.compile(r"[ \t]*=")
_EQUALS_BEFORE = re.compile(r"=[ \t]*\Z")
_OPENED = re.compile(r"(?:\A|[\s(\[{=,:])\Z")
_THEOREM = re.compile(
    r"\b(?:(?!(?:By|The|Using|Use|From|Apply|Applying|With|Since|This|Then|In|So|And|Now)\b)"
    r"[A-Z][\w'’–-]{0,30}[ \t]){1,4}"
    r"(?:[Tt]heorem|[Ll]emma|[Ii]nequality|[Ii]dentity|[Ff]ormulas?|[Rr]ule|[Ll]aw|[Pp]rinciple"
    r"|[Cc]riterion|[Aa]lgorithm)\b"
    r"|\b(?:[Ll]aw of (?:[Cc]o)?[Ss]ines|[Bb]inomial theorem|[Qq]uadratic formula|[Cc]hain rule"
    r"|[Ii]ntermediate value theorem|[Mm]ean value theorem|[Pp]igeonhole principle"
    r"|[Tt]riangle inequality|[Cc]hinese remainder theorem|AM-GM)\b"
)


class Span(NamedTuple):
    """A stretch of a text.

    Attributes:
        start, end: in letters.
        kind: one of `KINDS`.
        gold: its text.
        key: the same for spans that say the same.
    """

    start: int
    end: int
    kind: str
    gold: str
    key: str


def key_of(kind: str, text: str) -> str:
    """What is compared of a span's text, or of an answer that should be it; "" for nothing.

    A number's is its value: 24, $24.0 and 48/2 have one.
    """
    if kind == "number":
        return _value(text) if len(text) <= LONGEST else ""
    if kind == "theorem":
        words = re.sub(r"[^\w]+", " ", text.replace("’", "'").replace("'s ", " ")).casefold()
        return words.strip().removeprefix("the ")
    return squeezed(text)


@lru_cache(maxsize=1 << 14)
def _value(text: str) -> str:
    value = number(text)
    return "" if value is None else str(value)


def spans(text: str, kinds: tuple[str, ...] = KINDS) -> list[Span]:
    """The spans of a text in order; those of different kinds may lie in one another.

    An expression is a side of an equation, as `48 + 24` in `48 + 24 = 72`. `1/2` by itself is a
    number. The numbers before steps are none, and neither are digits that stick to letters.
    """
    marks = [match.span() for match in MARK.finditer(text)]
    sides, fractions = _chains(text)
    found = {"number": _numbers(text, fractions), "expression": sides}
    found["latex"] = _latex(text)
    found["theorem"] = [match.span() for match in _THEOREM.finditer(text)]
    made = []
    for kind in kinds:
        for start, end in found[kind]:
            gold = text[start:end]
            key = key_of(kind, gold)
            numbered = any(low < end and start < high for low, high in marks)
            if key and len(gold) <= LONGEST and not numbered:
                made.append(Span(start, end, kind, gold, key))
    return sorted(made)


def numbers(text: str) -> list[tuple[int, int, str]]:
    """Every number that can be seen in a text, signs left out: start, end and key.

    Also what sticks to letters, as in 30cm: whoever copies it does not mind.
    """
    matches = [*_VISIBLE.finditer(text), *_FRACTION.finditer(text)]
    found = ((match.start(), match.end(), key_of("number", match[0])) for match in matches)
    return [(start, end, key) for start, end, key in found if key]


class Seen:
    """What can be copied from a prompt, whatever of its steps is hidden.

    Args:
        question, text: of the prompt; places are those of the text.
    """

    def __init__(self, question: str, text: str) -> None:
        self._question, self._text = question, text
        self._asked = {key for _, _, key in numbers(question)}
        self._numbers = numbers(text)

    @cached_property
    def _folded(self) -> str:
        return _folded(self._question)

    def leaking(self, hidden: Sequence[Sequence[Span]]) -> list[Sequence[Span]]:
        """Those of the hidden whose text, as a token of its own, can still be seen.

        Args:
            hidden: each the places of one entity.
        """
        gaps = [(span.start, span.end) for entity in hidden for span in entity]
        wanted = {_size(entity[0]) for entity in hidden if entity[0].kind == "number"}
        left = self._asked | {
            key
            for start, end, key in self._numbers
            if key in wanted and not any(low < end and start < high for low, high in gaps)
        }
        rest = ""
        if any(entity[0].kind != "number" for entity in hidden):
            rest = covered(self._text, [(*gap, HIDDEN) for gap in gaps])
        return [entity for entity in hidden if self._leaks(entity[0], left, rest)]

    def _leaks(self, span: Span, left: set[str], rest: str) -> bool:
        if span.kind == "number":
            return _size(span) in left
        if span.kind == "theorem":
            words = key_of("theorem", f"{self._question} {rest}")
            return f" {span.key} " in f" {words} "
        part = _folded(span.gold)
        return _stands_in(part, self._folded) or _stands_in(part, _folded(rest))


def _size(number: Span) -> str:
    """Its key without a sign, which the eye adds."""
    return number.key.removeprefix("-")


def covered(text: str, gaps: list[tuple[int, int, str]]) -> str:
    """A text with other words in some places, which do not meet: start, end and what is there."""
    for start, end, shown in sorted(gaps, reverse=True):
        text = text[:start] + shown + text[end:]
    return text


def _folded(text: str) -> str:
    """A formula's text with space between words only."""
    text = _TIMES.sub("*", plain_signs(text).replace("$", ""))
    return _AROUND.sub(r"\1", " ".join(text.split()))


def _stands_in(part: str, whole: str) -> bool:
    where = whole.find(part)
    while where >= 0:
        around = whole[max(0, where - 1) : where], whole[where + len(part) :][:1]
        ends = part[0], part[-1]
        if not any(a.isalnum() and b.isalnum() for a, b in zip(around, ends, strict=True)):
            return True
        where = whole.find(part, where + 1)
    return False


def _numbers(text: str, fractions: list[tuple[int, int]]) -> list[tuple[int, int]]:
    found = list(fractions)
    for match in _NUMBER.finditer(text):
        start, end = match.span()
        if any(low <= start < high for low, high in fractions):
            continue
        signed = text[start - 1 : start] in ("-", "\u2212") and _OPENED.search(
            text[max(0, start - 2) : start - 1]
        )
        before = text[max(0, start - 20) : max(0, start - 1)].rstrip()[-1:]
        # Behind a number or a bracket the sign is an operator.
        if signed and not (before.isdigit() or before in (")", "%")):
            start -= 1
        found.append((start, end))
    return found


def _chains(text: str) -> tuple[list[tuple[int, int]], list[tuple[int, int]]]:
    """Sides of equations, and fractions that are no side of one."""
    sides, fractions = [], []
    for match in _CHAIN.finditer(text):
        start, end = match.span()
        while text[start] == "(" and text[start:end].count("(") > text[start:end].count(")"):
            start += 1
        while text[end - 1] == ")" and text[start:end].count(")") > text[start:end].count("("):
            end -= 1
        equation = _EQUALS_BEHIND.match(text, end) or _EQUALS_BEFORE.search(
            text[max(0, start - 8) : start]
        )
        if equation and expression(text[start:end]):
            sides.append((start, end))
        elif not equation and _FRACTION.fullmatch(text[start:end]):
            fractions.append((start, end))
    return sides, fractions


def _latex(text: str) -> list[tuple[int, int]]:
    """The insides of formulas."""
    found = []
    for start, end in formulas(text):
        size = 1 if text[start] == "$" and text[start + 1] != "$" else 2
        if not text.startswith(("```", r"\begin"), start) and end - start > 2 * size:
            inside = text[start + size : end - size]
            left = len(inside) - len(inside.lstrip())
            found.append((start + size + left, start + size + len(inside.rstrip())))
    return [(start, end) for start, end in found if start < end]
