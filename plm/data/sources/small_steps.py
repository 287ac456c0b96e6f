"""Worked solutions in steps that a model of a million parameters can learn: one digit at a time.

In the form of `solutions`, with the same questions and answers. What differs: sums and differences
are done in columns, what has been written so far stands in every line, and a rule is said again
before it is applied.
"""

from collections.abc import Callable
from decimal import Decimal
from typing import Any

from plm.data.sources.solutions import LEGS_OF, SOLVERS, Worked


def _digits(number: int, places: int) -> list[int]:
    """From the last to the first, filled up with zeros."""
    return [int(digit) for digit in reversed(str(number).zfill(places))]


def add(a: int, b: int) -> list[str]:
    """Lines of a sum in columns; neither number is negative."""
    places, lines, carry, written = max(len(str(a)), len(str(b))), [], 0, ""
    for x, y in zip(_digits(a, places), _digits(b, places), strict=True):
        total = x + y + carry
        carry, digit = divmod(total, 10)
        written = f"{digit}{written}"
        lines.append(f"{x} + {y} + {total - x - y} = {total}, carry {carry}: {written}")
    return [*lines, f"{a} + {b} = {a + b}"]


def subtract(a: int, b: int) -> list[str]:
    """Lines of a difference in columns; 0 <= b <= a."""
    places, lines, borrow, written = len(str(a)), [], 0, ""
    for x, y in zip(_digits(a, places), _digits(b, places), strict=True):
        left, taken = x - y - borrow, borrow
        borrow, written = int(left < 0), f"{left % 10}{written}"
        lines.append(f"{x} - {y} - {taken} = {left}, borrow {borrow}: {written}")
    return [*lines, f"{a} - {b} = {a - b}"]


def _signed(total: int, sign: str, number: int) -> list[str]:
    """Lines of `total sign number`, whatever the sign of the total; number is not negative."""
    result = total + number if sign == "+" else total - number
    said = f"{total} {sign} {number} = {result}"
    if total >= 0 and sign == "+":
        return add(total, number)
    if total >= number and sign == "-":
        return subtract(total, number)
    if total >= 0:
        less = f"{total} is less than {number}: the result is negative"
        return [less, *subtract(number, total), said]
    if sign == "-":
        return [*add(-total, number), said]
    larger, smaller = max(number, -total), min(number, -total)
    return [*subtract(larger, smaller), said]


def chain_sum(data: dict[str, Any]) -> Worked:
    """Sums and differences of whole numbers from left to right."""
    first, *rest = data["expression"].split()
    total, steps = int(first), []
    for sign, number in zip(rest[::2], rest[1::2], strict=True):
        steps += _signed(total, sign, int(number))
        total += int(number) if sign == "+" else -int(number)
    return Worked(f"Work out {data['expression']}.", steps, str(total))


def leg_counting(data: dict[str, Any]) -> Worked:
    """Animals times legs, then the sum, two at a time."""
    parts, steps = [], []
    for animal, count in data["animals"].items():
        parts.append(count * LEGS_OF[animal])
        steps.append(f"{animal}: {count} * {LEGS_OF[animal]} = {parts[-1]}")
    total, *rest = parts
    for part in rest:
        steps += add(total, part)
        total += part
    return Worked(SOLVERS["leg_counting"](data).question, steps, str(total))


def number_filtering(data: dict[str, Any]) -> Worked:
    """Say what becomes of either side, then put each number beside the limit."""
    limit, plain = data["filter_value"], SOLVERS["number_filtering"](data)
    verb, side = data["operation"].split("_")
    fate = {side: verb, _OTHER[side]: _OTHER[verb]}
    steps = [f"Those {side} than {limit}: {verb}. Those {_OTHER[side]}: {_OTHER[verb]}."]
    for number in data["original_numbers"]:
        larger, equal = Decimal(number) > Decimal(limit), Decimal(number) == Decimal(limit)
        if equal:
            steps.append(f"{number} and {limit}: equal, {_OTHER[verb]}")
        else:
            found = "larger" if larger else "smaller"
            steps.append(f"{number} and {limit}: {found}, {fate[found]}")
    return Worked(plain.question, steps, plain.answer)


_OTHER = {"larger": "smaller", "smaller": "larger", "keep": "remove", "remove": "keep"}

SMALL_STEPS: dict[str, Callable[[dict[str, Any]], Worked | None]] = {
    **SOLVERS,
    "chain_sum": chain_sum,
    "leg_counting": leg_counting,
    "number_filtering": number_filtering,
}
"""By family; a family without small steps of its own has those of `solutions`."""
