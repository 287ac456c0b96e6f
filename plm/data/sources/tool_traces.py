"""Conversations in which an interpreter is called: reasoning-gym's tasks, each solved by a program.

What begins a run with the environment `interpreter` (configs/environment). The call is a function
call of the assistant's and the output a message of the tool's, which nothing is learnt from,
whatever the chat template; plm/formats/chatml_code.jinja writes both as the environment does.

Paper: Feng et al., ReTool (arXiv:2504.11536), which begins with such traces
Source: open-thought/reasoning-gym, whose generators are used; the programs are ours.
"""

import contextlib
import io
from collections.abc import Callable, Iterator
from functools import partial
from typing import Any, NamedTuple

from plm.data.conversations import Conversation
from plm.data.documents import Document, Origin
from plm.data.sources.dialogues import ANSWER
from plm.data.sources.exercises import agrees, solve
from plm.data.sources.solutions import LEGS_OF
from plm.data.tally import Tally
from plm.errors import ConfigError

FUNCTION = "python"
"""The function that is called; its argument is `code`."""

_COST = 50


class _Batch(NamedTuple):
    family: str
    settings: dict[str, Any]
    size: int


def tool_traces(
    families: dict[str, dict[str, Any] | None], *, seed: int, problems: int, system: str = ""
) -> Origin:
    """Tasks, the program that solves each, its output, and the answer.

    Args:
        families: name of each family and settings of its generator; `problems` among them
            overrides the number.
        seed: of the generators. Task i of a seed is task 0 of seed + i: tasks for evaluation need
            a seed that lies further off than `problems`.
        problems: how many of each family, before equal ones are dropped.
        system: a system prompt; "": none.
    Raises:
        ConfigError: a family that has no program.
    """
    items = []
    for family in sorted(families):
        if family not in PROGRAMS:
            raise ConfigError(
                f"tool_traces: no program for {family!r}; there are: {', '.join(PROGRAMS)}"
            )
        settings = dict(families[family] or {})
        items.append(_Batch(family, settings, settings.pop("problems", problems)))
    read = partial(_read, seed=seed, system=system)
    facts = {"families": sorted(families), "seed": seed, "conversations": True}
    return Origin(items, read, lambda item: item.size * _COST, facts)


def trace(question: str, program: str, output: str, answer: str) -> list[dict[str, Any]]:
    """The messages of a task."""
    call = {"type": "function", "function": {"name": FUNCTION, "arguments": {"code": program}}}
    return [
        {"role": "user", "content": question},
        {"role": "assistant", "content": "", "tool_calls": [call]},
        {"role": "tool", "content": output},
        {"role": "assistant", "content": f"{ANSWER}{answer}"},
    ]


def _read(item: _Batch, tally: Tally, *, seed: int, system: str) -> Iterator[Document]:
    for number, task, worked in solve(item.family, item.settings, seed, item.size):
        name, asked = f"{item.family}/{number}", task["question"]
        if worked is None:
            tally.drop("no exact solution", name, asked)
            continue
        program = PROGRAMS[item.family](task["metadata"])
        output = printed(program)
        if output != worked.answer or not agrees(output, task["answer"]):
            tally.drop("the program's output differs from the task's answer", name, asked)
            continue
        messages = trace(worked.question, program, output, worked.answer)
        if system:
            messages.insert(0, {"role": "system", "content": system})
        # Its own group, by its text: equal problems can never be on both sides.
        yield Document(Conversation(messages).to_text(), name, f"{item.family}: {worked.question}")


def printed(program: str) -> str:
    """What one of the programs below prints, without white space around it."""
    said = io.StringIO()
    with contextlib.redirect_stdout(said):
        # Here and now: the text is made below out of numbers and quoted words, and the sandbox
        # would take many times as long.
        exec(program, {"__name__": "__main__"})
    return said.getvalue().strip()


def _expression(data: dict[str, Any]) -> str:
    return f"print({' '.join(data['expression'].split())})"


def _exact(data: dict[str, Any]) -> str:
    return _expression(data).replace("/", "//")


def _divisor(data: dict[str, Any]) -> str:
    return f"import math\nprint(math.gcd({', '.join(map(str, data['numbers']))}))"


def _multiple(data: dict[str, Any]) -> str:
    return f"import math\nprint(math.lcm({', '.join(map(str, data['numbers']))}))"


def _legs(data: dict[str, Any]) -> str:
    parts = (f"{count} * {LEGS_OF[animal]}" for animal, count in data["animals"].items())
    return f"print({' + '.join(parts)})"


def _sorted(data: dict[str, Any]) -> str:
    order = ", reverse=True" if data["direction"] == "descending" else ""
    return f"numbers = {list(data['original_numbers'])}\nprint(sorted(numbers, key=float{order}))"


def _filtered(data: dict[str, Any]) -> str:
    verb, side = data["operation"].split("_")
    signs = {("keep", "larger"): ">", ("keep", "smaller"): "<", ("remove", "larger"): "<="}
    sign = signs.get((verb, side), ">=")
    numbers = f"numbers = {list(data['original_numbers'])}"
    return f"{numbers}\nprint([n for n in numbers if float(n) {sign} {data['filter_value']}])"


def _letters(data: dict[str, Any]) -> str:
    return f"print({' '.join(data['span'])!r}.lower().count({data['target_letter']!r}))"


def _bits(data: dict[str, Any]) -> str:
    return f'print(bin({data["number"]}).count("1"))'


def _angle(data: dict[str, Any]) -> str:
    known = " - ".join(str(int(angle)) for angle in data["known_angles"])
    return f"print(({data['n_sides']} - 2) * 180 - {known})"


def _factors(data: dict[str, Any]) -> str:
    return "\n".join(
        (
            f"n, p, found = {data['number']}, 2, []",
            "while n > 1:",
            "    if n % p:",
            "        p += 1",
            "    else:",
            "        n //= p",
            "        found.append(str(p))",
            'print(" × ".join(found))',
        )
    )


PROGRAMS: dict[str, Callable[[dict[str, Any]], str]] = {
    "basic_arithmetic": _exact,
    "chain_sum": _expression,
    "count_bits": _bits,
    "gcd": _divisor,
    "lcm": _multiple,
    "leg_counting": _legs,
    "letter_counting": _letters,
    "number_filtering": _filtered,
    "number_sorting": _sorted,
    "prime_factorization": _factors,
    "products": _expression,
    "simple_geometry": _angle,
}
"""Families of tasks that have a program: from a task's metadata to its text."""
