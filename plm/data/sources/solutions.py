"""Worked solutions: from a task's numbers to the steps that a person would write down.

Each function takes the `metadata` of a reasoning-gym task and returns the question, the steps, one
a line, and the answer in the form that the task's scorer takes.
"""

import ast
import operator
from collections.abc import Callable
from decimal import Decimal
from typing import Any, NamedTuple


class Worked(NamedTuple):
    """A problem with its solution."""

    question: str
    steps: list[str]
    answer: str


_LEGS = {
    0: "snake|sea slug|jellyfish|flatworm|leech",
    2: "chicken|bird|human|duck",
    4: "dog|cat|cow|horse|lion|elephant|giraffe|tiger|deer|sheep",
    5: "starfish",
    6: "insect|ant|butterfly|beetle|bee|wasp|grasshopper|cricket|cockroach|praying mantis|firefly",
    8: "spider|scorpion",
    10: "crab|lobster|shrimp",
    14: "woodlouse",
}
LEGS_OF = {animal: legs for legs, animals in _LEGS.items() for animal in animals.split("|")}
_DIGITS = "0123456789abcdefghijklmnopqrstuvwxyz"


def chain_sum(data: dict[str, Any]) -> Worked:
    """Sums and differences from left to right, whole or decimal."""
    first, *rest = data["expression"].split()
    total, steps = Decimal(first), []
    for sign, number in zip(rest[::2], rest[1::2], strict=True):
        after = total + Decimal(number) if sign == "+" else total - Decimal(number)
        steps.append(f"{total} {sign} {number} = {after}")
        total = after
    return Worked(f"Work out {data['expression']}.", steps, str(total))


def basic_arithmetic(data: dict[str, Any]) -> Worked | None:
    """One operation at a time, brackets and products first; None where a division is not exact."""
    steps: list[str] = []
    operations = {
        ast.Add: ("+", operator.add),
        ast.Sub: ("-", operator.sub),
        ast.Mult: ("*", operator.mul),
        ast.Div: ("/", operator.floordiv),
    }

    def value(node: ast.AST) -> int:
        if isinstance(node, ast.Constant):
            return node.value
        if isinstance(node, ast.UnaryOp):
            inside = value(node.operand)
            if not isinstance(node.operand, ast.Constant):
                steps.append(f"-({inside}) = {-inside}")
            return -inside
        left, right = value(node.left), value(node.right)
        sign, function = operations[type(node.op)]
        if sign == "/" and (right == 0 or left % right):
            raise ArithmeticError
        result = function(left, right)
        shown = f"({right})" if right < 0 else str(right)
        steps.append(f"{left} {sign} {shown} = {result}")
        return result

    try:
        result = value(ast.parse(data["expression"].strip(), mode="eval").body)
    except ArithmeticError:
        return None
    return Worked(f"Calculate {data['expression'].strip()}.", steps, str(result))


def products(data: dict[str, Any]) -> Worked:
    """Long multiplication: one line for each digit of the second factor."""
    left, right = (int(part) for part in data["expression"].split("*"))
    parts, steps = [], []
    for place, digit in enumerate(reversed(str(right))):
        if digit != "0":
            step = int(digit) * 10**place
            parts.append(left * step)
            steps.append(f"{left} * {step} = {left * step}")
    if len(parts) > 1:
        steps.append(f"{' + '.join(map(str, parts))} = {sum(parts)}")
    return Worked(f"Multiply {left} by {right}.", steps, str(left * right))


def _euclid(a: int, b: int) -> tuple[list[str], int]:
    steps = []
    a, b = max(a, b), min(a, b)
    while b:
        steps.append(f"{a} = {a // b} * {b} + {a % b}")
        a, b = b, a % b
    return steps, a


def gcd(data: dict[str, Any]) -> Worked:
    """Euclid's algorithm on two numbers."""
    a, b = data["numbers"]
    steps, result = _euclid(a, b)
    steps.append(f"The last remainder that is not 0 is {result}.")
    return Worked(f"Find the greatest common divisor of {a} and {b}.", steps, str(result))


def lcm(data: dict[str, Any]) -> Worked:
    """The product over the greatest common divisor."""
    a, b = data["numbers"]
    steps, divisor = _euclid(a, b)
    result = a // divisor * b
    steps.append(f"The greatest common divisor is {divisor}.")
    steps.append(f"{a} / {divisor} * {b} = {a // divisor} * {b} = {result}")
    return Worked(f"Find the least common multiple of {a} and {b}.", steps, str(result))


def fraction_simplification(data: dict[str, Any]) -> Worked:
    """Divide both parts by their greatest common divisor."""
    top, bottom = data["numerator"], data["denominator"]
    steps, divisor = _euclid(top, bottom)
    steps.append(f"The greatest common divisor is {divisor}.")
    steps.append(f"{top} / {divisor} = {top // divisor}")
    steps.append(f"{bottom} / {divisor} = {bottom // divisor}")
    answer = _fraction(top // divisor, bottom // divisor, data["style"])
    return Worked(f"Simplify {_fraction(top, bottom, data['style'])}.", steps, answer)


def _fraction(top: int, bottom: int, style: str) -> str:
    if style.startswith("latex"):
        inner = f"{top}/{bottom}"
        if style in ("latex_frac", "latex_dfrac"):
            inner = f"\\{style.removeprefix('latex_')}{{{top}}}{{{bottom}}}"
        return f"${inner}$"
    return f"{top}/{bottom}"


def prime_factorization(data: dict[str, Any]) -> Worked:
    """Trial division by the primes in turn."""
    left, factors, steps, prime = data["number"], [], [], 2
    while prime * prime <= left:
        if left % prime == 0:
            steps.append(f"{left} = {prime} × {left // prime}")
            factors.append(prime)
            left //= prime
        else:
            prime += 1
    if left > 1:
        tried = f": nothing from 2 to {prime - 1} divides it" if prime > 2 else ""
        steps.append(f"{left} is prime{tried}.")
        factors.append(left)
    question = f"Write {data['number']} as a product of primes."
    return Worked(question, steps, " × ".join(map(str, factors)))


def base_conversion(data: dict[str, Any]) -> Worked:
    """Through the decimal value: powers of one base, then remainders by the other."""
    source, target, written = data["source_base"], data["target_base"], data["source_repr"]
    terms = [
        f"{_DIGITS.index(digit)} * {source}^{len(written) - 1 - place}"
        for place, digit in enumerate(written)
    ]
    number = int(written, source)
    steps = [f"In base 10: {' + '.join(terms)} = {number}"]
    digits, left = "", number
    while left or not digits:
        digit = _DIGITS[left % target]
        steps.append(f"{left} = {left // target} * {target} + {left % target}, digit {digit}")
        digits = digit + digits
        left //= target
    steps.append("The digits from the last to the first give the answer.")
    question = f"Convert {written} from base {source} to base {target}."
    return Worked(question, steps, digits)


def leg_counting(data: dict[str, Any]) -> Worked:
    """Animals times legs, then the sum."""
    parts, steps = [], []
    for animal, count in data["animals"].items():
        legs = LEGS_OF[animal]
        parts.append(count * legs)
        steps.append(f"{animal}: {count} * {legs} = {count * legs}")
    steps.append(f"{' + '.join(map(str, parts))} = {sum(parts)}")
    listed = ", ".join(f"{animal} ({count})" for animal, count in data["animals"].items())
    return Worked(f"How many legs are there in all? {listed}.", steps, str(sum(parts)))


def number_filtering(data: dict[str, Any]) -> Worked:
    """Compare each number with the limit."""
    limit = data["filter_value"]
    verb, side = data["operation"].split("_")
    kept, steps = [], []
    for number in data["original_numbers"]:
        larger = Decimal(number) > Decimal(limit)
        smaller = Decimal(number) < Decimal(limit)
        hit = larger if side == "larger" else smaller
        sign = ">" if larger else "<" if smaller else "="
        keep = hit if verb == "keep" else not hit
        steps.append(f"{number} {sign} {limit}: {'keep' if keep else 'remove'}")
        if keep:
            kept.append(number)
    question = f"{verb.capitalize()} the numbers {side} than {limit}: "
    question += ", ".join(data["original_numbers"]) + "."
    return Worked(question, steps, str(kept) if kept else "[]")


def simple_geometry(data: dict[str, Any]) -> Worked:
    """Angles of a polygon sum to (n - 2) * 180 degrees."""
    sides, known = data["n_sides"], [int(angle) for angle in data["known_angles"]]
    whole = (sides - 2) * 180
    steps = [f"The angles of a polygon with {sides} sides sum to ({sides} - 2) * 180 = {whole}."]
    steps.append(f"{' + '.join(map(str, known))} = {sum(known)}")
    steps.append(f"{whole} - {sum(known)} = {whole - sum(known)}")
    question = f"A convex polygon has {sides} sides and the angles {', '.join(map(str, known))}; "
    return Worked(question + "how large is the last one?", steps, str(whole - sum(known)))


def letter_counting(data: dict[str, Any]) -> Worked:
    """Word by word, then the sum; capitals count as their small letters."""
    letter = data["target_letter"]
    counts = [word.lower().count(letter) for word in data["span"]]
    pairs = zip(data["span"], counts, strict=True)
    steps = [", ".join(f"{word} {count}" for word, count in pairs)]
    steps.append(f"{' + '.join(map(str, counts))} = {sum(counts)}")
    text = " ".join(data["span"])
    return Worked(f'How often does "{letter}" stand in "{text}"?', steps, str(sum(counts)))


def count_bits(data: dict[str, Any]) -> Worked:
    """Halve and note the remainders."""
    left, ones, steps = data["number"], 0, []
    while left:
        steps.append(f"{left} = 2 * {left // 2} + {left % 2}")
        ones += left % 2
        left //= 2
    steps.append(f"The remainder is 1 in {ones} of {len(steps)} lines.")
    return Worked(f"How many ones has {data['number']} in binary?", steps, str(ones))


def number_sorting(data: dict[str, Any]) -> Worked:
    """Take the smallest, or the largest, of what is left."""
    down = data["direction"] == "descending"
    left, order, steps = list(data["original_numbers"]), [], []
    while len(left) > 1:
        best = (max if down else min)(left, key=Decimal)
        steps.append(f"Of {', '.join(left)} the {'largest' if down else 'smallest'} is {best}.")
        left.remove(best)
        order.append(best)
    steps.append(f"{left[0]} is left.")
    listed = ", ".join(data["original_numbers"])
    return Worked(f"Sort in {data['direction']} order: {listed}.", steps, str([*order, *left]))


def complex_arithmetic(data: dict[str, Any]) -> Worked:
    """Real and imaginary parts apart; a quotient by the conjugate."""
    (a, b), (c, d) = ([int(x) for x in data[key]] for key in ("num1", "num2"))
    sign = data["operation"]
    if sign in "+-":
        real, imag = (a + c, b + d) if sign == "+" else (a - c, b - d)
        steps = [f"Real part: {a} {sign} ({c}) = {real}"]
        steps.append(f"Imaginary part: {b} {sign} ({d}) = {imag}")
    else:
        e = d if sign == "*" else -d
        real, imag = a * c - b * e, a * e + b * c
        steps = [] if sign == "*" else [f"Multiply by the conjugate of {_complex(c, d)}."]
        steps.append(f"Real part: {a} * ({c}) - {b} * ({e}) = {real}")
        steps.append(f"Imaginary part: {a} * ({e}) + {b} * ({c}) = {imag}")
        if sign == "/":
            norm = c * c + d * d
            steps.append(f"({c})^2 + ({d})^2 = {norm}")
            steps.append(f"{real} / {norm} = {real // norm}")
            steps.append(f"{imag} / {norm} = {imag // norm}")
            real, imag = real // norm, imag // norm
    question = f"Work out ({_complex(a, b)}) {sign} ({_complex(c, d)})."
    return Worked(question, steps, _complex(real, imag))


def _complex(real: int, imag: int) -> str:
    return f"{real} {'-' if imag < 0 else '+'} {abs(imag)}i"


def gsm_symbolic(data: dict[str, Any]) -> Worked:
    """The solution that comes with the task."""
    steps = data["answer_cot"].rpartition("####")[0].strip().split("\n")
    question = data["question"].split("Give the result as your final answer.")[0].strip()
    return Worked(question, steps, str(data["answer_value"]))


SOLVERS: dict[str, Callable[[dict[str, Any]], Worked | None]] = {
    "base_conversion": base_conversion,
    "basic_arithmetic": basic_arithmetic,
    "chain_sum": chain_sum,
    "complex_arithmetic": complex_arithmetic,
    "count_bits": count_bits,
    "decimal_chain_sum": chain_sum,
    "fraction_simplification": fraction_simplification,
    "gcd": gcd,
    "gsm_symbolic": gsm_symbolic,
    "lcm": lcm,
    "leg_counting": leg_counting,
    "letter_counting": letter_counting,
    "number_filtering": number_filtering,
    "number_sorting": number_sorting,
    "prime_factorization": prime_factorization,
    "products": products,
    "simple_geometry": simple_geometry,
}
"""Families of tasks that have a worked solution."""
