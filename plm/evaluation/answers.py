"""What a completion answers, and whether that is the right answer: exactly, or not at all."""

import re
from decimal import Decimal, InvalidOperation

_ANSWER = re.compile(r"^[ \t>*_]*answer[ \t*_]*:[ \t*_]*(.*)$", re.IGNORECASE | re.MULTILINE)
_HASHES = re.compile(r"^[ \t]*####[ \t]*(.*)$", re.MULTILINE)
_BRACE = re.compile(r"\\boxed\s*\{|\\.|[{}]", re.DOTALL)
_NUMBER = re.compile(r"(?<![\w.])[-+]?\$?(?:\d{1,3}(?:,\d{3})+|\d+)(?:\.\d+)?(?!\w|\.\d)")
# U+2212, which mathematical text has where ASCII has a hyphen.
_MINUS = re.compile(r"\u2212(?=[$\d])")
_PLAIN = re.compile(r"[-+]?(?:\d+|\d{1,3}(?:,\d{3})+)(?:\.\d+)?")

LONGEST = 200
"""Characters of a line that may be a number with what belongs to it."""


def answer_of(text: str, *, question: str, cut: bool, hashes: bool = False) -> str | None:
    """What stands behind the last `Answer:` of a line.

    Args:
        text: the completion.
        question: a copy of it in the completion is left out before anything is looked for.
        cut: the completion ended because it was too long: a last line without an end is no answer,
            since the rest of it is missing.
        hashes: a line `#### 18`, as GSM8K's own solutions end, counts as well.
    Returns:
        The line's rest; None where there is none, or where it is empty.
    """
    if question.strip():
        text = text.replace(question.strip(), "")
    if cut:
        text = text[: text.rfind("\n") + 1]
    found = list(_ANSWER.finditer(text))
    if hashes:
        found += _HASHES.finditer(text)
    if not found:
        return None
    return max(found, key=lambda match: match.start())[1].strip() or None


def lines_of_answers(text: str) -> list[str]:
    """What stands behind `Answer:` on each line that begins so, also where it is nothing."""
    return [found[1].strip() for found in _ANSWER.finditer(text)]


def boxes(text: str) -> list[str]:
    r"""What stands in each \boxed{…} that is closed and in no other, in order.

    Braces are paired, those behind a backslash left out; one pass, however deep they are.
    """
    found: list[tuple[int, int, int]] = []
    opened: list[tuple[int, int] | None] = []
    for match in _BRACE.finditer(text):
        if match[0] == "}":
            box = opened.pop() if opened else None
            if box is not None:
                while found and found[-1][0] > box[0]:
                    found.pop()
                found.append((*box, match.start()))
        elif match[0] == "{":
            opened.append(None)
        elif match[0].endswith("{") and match[0] != "\\{":
            opened.append((match.start(), match.end()))
    return [text[begin:end] for _, begin, end in found]


def normalised(answer: str) -> str:
    """White space and minus signs made even; emphasis around it and a full stop at its end removed.

    A minus sign of its own (U+2212) before a number becomes ASCII's.
    """
    text = " ".join(_MINUS.sub("-", answer).split()).strip("*`").strip()
    return text[:-1].rstrip("*` ") if text.endswith(".") else text


def same_text(answer: str | None, wanted: str) -> bool:
    """Equality of the normalised answers; an empty one is never right."""
    return bool(answer) and normalised(answer) == normalised(wanted) != ""


def same_number(answer: str | None, wanted: str) -> bool:
    """Both are plain decimal numbers, signs and commas between thousands allowed, and are equal."""
    if not answer:
        return False
    left, right = (decimal_of(normalised(text)) for text in (answer, wanted))
    return left is not None and left == right


def decimal_of(text: str) -> Decimal | None:
    """The number that a text is: ASCII's digits, with a sign, commas or a point; None: none."""
    # Decimal also takes the digits of other scripts.
    if not text.isascii() or not _PLAIN.fullmatch(text):
        return None
    try:
        return Decimal(text.replace(",", ""))
    except InvalidOperation:
        return None


def foreign_digits(text: str) -> bool:
    """Whether it has digits of another script or style, which `int` would take as well."""
    return any(letter.isdecimal() and not letter.isascii() for letter in text)


def only_number(answer: str | None) -> str | None:
    """The one number of an answer such as `$18 a day`; None where there is none, or more than one.

    Several numbers are no answer: one of them would be right by chance. Neither is a line of more
    than `LONGEST` characters.
    """
    if not answer or len(answer) > LONGEST:
        return None
    found = _NUMBER.findall(_MINUS.sub("-", answer))
    return found[0].replace("$", "") if len(found) == 1 else None
