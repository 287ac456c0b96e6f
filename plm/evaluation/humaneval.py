"""HumanEval: functions from their docstrings, run against unit tests in the sandbox.

The tests run in the completion's own process. A word that it prints at its very end says that they
were reached, so that leaving early, by exit(0) say, does not pass. The word comes through stdin,
which is moved away before the completion runs, and is read only after the tests: it is nowhere in
the program, and a completion that reads its input finds none. This does not stop one that cheats
on purpose: one that looks for the open file, or spoils what the tests use, does pass. Of a model
that was trained against this score, read the answers too.

Paper: Chen et al., Evaluating large language models trained on code (arXiv:2107.03374)
"""

import re
import secrets
from typing import Any

from plm.errors import ConfigError
from plm.evaluation.generated import Generated, Item, drawing
from plm.evaluation.kinds import check_kinds
from plm.evaluation.rows import read_rows

HUB = "openai/openai_humaneval"
FIELDS = ("task_id", "prompt", "entry_point", "test", "canonical_solution")
STOP = ("\nclass ", "\ndef ", "\n#", "\nif ", "\nprint(", "\n```", "\n@", "\nassert ")
# One line, before all of the completion. Modules are imported where they are used: it may have an
# `os` of its own.
_FIRST = (
    "_word = (lambda o: (o.dup(0), (lambda p: (o.close(p[1]), o.dup2(p[0], 0)))(o.pipe()))[0])"
    "(__import__('os'))"
)
_LAST = "print()\nprint(__import__('os').read(_word, 4096).decode())"
_FUTURE = re.compile(r"^from __future__ import .*\n", re.MULTILINE)
_FENCE = re.compile(r"```[ \t]*(?:python|py)?[ \t]*\n(.*?)(?:\n```|\Z)", re.DOTALL)
_REQUEST = "Complete this Python function. Answer with the whole function in one code block.\n\n"


def humaneval(
    path: str | None = None,
    *,
    limits: dict[str, float] | None = None,
    workers: int | None = None,
    **draw: Any,
) -> Generated:
    """Share of functions that pass their tests; pass@k with samples above 1.

    Args:
        path: HumanEval.jsonl.gz, or a folder with test.jsonl; null: the Hub's.
        limits: settings of `plm.sandbox.Limits` for one program; null: its defaults.
        workers: programs at the same time; null: the sandbox's choice.
        draw: settings of `plm.evaluation.generated.Drawing`.
    Raises:
        ConfigError: a value of the wrong kind.
    """
    told = {"path": path, "limits": limits, "workers": workers}
    check_kinds(told, {"path": (str, None), "limits": (dict, None), "workers": (int, None)})
    limits_of(limits)

    def items() -> tuple[list[Item], list[str]]:
        rows = read_rows(path, "test", FIELDS, hub=HUB)
        return [
            Item(
                name=row["task_id"],
                question=f"{_REQUEST}```python\n{row['prompt'].rstrip()}\n```",
                text=row["prompt"],
                answer=row["canonical_solution"],
                more={name: row[name] for name in ("prompt", "entry_point", "test")},
            )
            for row in rows
        ], [_containment()]

    def grade(flat: list[tuple[Item, str, bool]]) -> list[tuple[bool, str | None]]:
        return run_tests(flat, limits or {}, workers)

    settings = {"limits": limits or {}}
    return Generated(items, grade, drawing(draw, humaneval), stop=STOP, settings=settings)


def run_tests(
    flat: list[tuple[Item, str, bool]], limits: dict[str, float], workers: int | None
) -> list[tuple[bool, str | None]]:
    """Whether each completion passes its item's tests, and how its program ended.

    Raises:
        ConfigError: limits that the sandbox does not have.
    """
    from plm.sandbox import run_many

    programs = [(i, program(item, text)) for i, (item, text, _) in enumerate(flat) if text.strip()]
    words = [secrets.token_hex(16) for _ in programs]
    outcomes = run_many(
        [source for _, source in programs], limits=limits_of(limits), stdin=words, workers=workers
    )
    found: list[tuple[bool, str | None]] = [(False, "empty") for _ in flat]
    for (index, _), word, outcome in zip(programs, words, outcomes, strict=True):
        # A program that ends early, by exit() say, exits with 0 as well: it has not said the word.
        passed = outcome.status == "ok" and outcome.stdout.rstrip().endswith(word)
        ended = "ok" if passed else "ended before its tests" if outcome.status == "ok" else ""
        found[index] = passed, ended or outcome.status
    return found


def limits_of(limits: dict[str, float] | None) -> Any:
    """The sandbox's limits.

    Raises:
        ConfigError: one that it does not have, or a value that it cannot be.
    """
    from plm.sandbox import Limits

    try:
        return Limits(**(limits or {}))
    except TypeError as error:
        raise ConfigError(f"limits={limits}: {error}") from error


def program(item: Item, text: str) -> str:
    """The program that tests a completion, and writes what it reads once all tests have passed.

    Args:
        item: with prompt, entry_point and test.
        text: the rest of the function; or an answer with the whole of it, in a code block or not.
    """
    prompt, name = item.more["prompt"], item.more["entry_point"]
    code = code_of(text, name)
    whole = re.search(rf"^def {re.escape(name)}\b", code, re.MULTILINE) is not None
    # What the prompt imports and defines before its function may be needed all the same.
    before = prompt[: prompt.rindex(f"def {name}")] + "\n" if whole else prompt
    # Nothing but such lines may come first.
    future = "".join(_FUTURE.findall(before + code))
    before, code = (_FUTURE.sub("", part) for part in (before, code))
    return f"{future}{_FIRST}\n{before}{code}\n\n{item.more['test']}\n\ncheck({name})\n{_LAST}\n"


def code_of(text: str, name: str) -> str:
    """The last code block that defines the function, else the last one, else the text itself."""
    blocks = _FENCE.findall(text)
    if not blocks:
        return text
    defining = [block for block in blocks if f"def {name}" in block]
    return (defining or blocks)[-1]


def _containment() -> str:
    """What the sandbox contains on this machine, in one line."""
    from plm.sandbox import contained

    told = contained()
    held = [name for name, how in told.items() if how]
    loose = [name for name, how in told.items() if not how]
    return f"sandbox: contained are {', '.join(held)}; not contained: {', '.join(loose) or 'none'}"
