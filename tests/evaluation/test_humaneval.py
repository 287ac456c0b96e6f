"""HumanEval in the sandbox: its own solutions pass, degenerate and cheating ones do not."""

from pathlib import Path

import pytest

from plm.errors import ConfigError
from plm.evaluation.generated import Item
from plm.evaluation.humaneval import code_of, humaneval, program, run_tests

ADD = Item(
    "t/0",
    "",
    "",
    "",
    more={
        "prompt": 'from math import floor\n\n\ndef add(a, b):\n    """Sum, rounded down."""\n',
        "entry_point": "add",
        "test": "def check(f):\n    assert f(1, 2.5) == 3\n    assert f(0, 0) == 0\n",
    },
)
BODY = "    return floor(a + b)\n"


def passed(*texts: str) -> list[bool]:
    return [ok for ok, _ in run_tests([(ADD, text, False) for text in texts], {}, None)]


def test_right_answers_in_every_form():
    whole = f"def add(a, b):\n{BODY}"
    assert (
        passed(
            BODY,
            whole,
            f"Here it is:\n```python\n{whole}```\nIt adds.",
            f"```\n{whole}\n```",
            f"```python\nprint(1)\n```\n```python\n{whole}```\n```python\nprint(add(1, 2))\n```",
            f"```python\n{whole}",
            f"```python\nfrom __future__ import annotations\nimport os\n{whole}```",
        )
        == [True] * 7
    )


def test_wrong_degenerate_and_cheating_ones():
    texts = [
        "",
        "  \n",
        ADD.more["prompt"],
        "    return a - b\n",
        "    return floor(a",
        "    pass\nimport sys\nsys.exit(0)\n",
        "    pass\nimport os\nos._exit(0)\n",
        "    pass\nraise SystemExit\n",
        "    while True: pass\n",
    ]
    found = run_tests([(ADD, text, False) for text in texts], {"cpu_s": 1.0, "wall_s": 4.0}, None)
    assert not any(ok for ok, _ in found)
    ended = [how for _, how in found]
    assert ended[:2] == ["empty", "empty"] and ended[3] == "failed"
    assert ended[5:7] == ["ended before its tests"] * 2 and ended[8] in ("cpu_time", "wall_time")


def test_printing_all_constants_and_leaving_does_not_pass():
    """A word in the program's text, as it once was, would be among them."""
    leaving = (
        "    pass\nimport os, sys\nconstants = sys._getframe().f_code.co_consts\n"
        "words = [one for one in constants if isinstance(one, str) and ' ' not in one]\n"
        "for one in words:\n    if len(one) > 20:\n        print(one, flush=True)\n"
        "os._exit(0)\n"
    )
    (outcome,) = run_tests([(ADD, leaving, False)], {}, None)
    assert outcome == (False, "ended before its tests")


def test_the_word_is_not_in_the_program(monkeypatch: pytest.MonkeyPatch):
    """Another one for each program, by stdin alone."""
    import plm.sandbox

    seen, real = {}, plm.sandbox.run_many

    def watched(programs, *, stdin, **settings):
        seen.update(zip(programs, stdin, strict=True))
        return real(programs, stdin=stdin, **settings)

    monkeypatch.setattr(plm.sandbox, "run_many", watched)
    assert passed(BODY, BODY + "#") == [True, True]
    assert len(set(seen.values())) == 2 and all(len(word) == 32 for word in seen.values())
    assert not any(word in source for word in seen.values() for source in seen)
    assert program(ADD, BODY) in seen


def test_code_blocks():
    assert code_of("plain", "f") == "plain"
    assert code_of("```py\na\n```\n```\nb\n```", "f") == "b"
    assert code_of("```\ndef f(): 1\n```\n```\nb\n```", "f") == "def f(): 1"


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"limits": {"colour": 1}}, r"limits=.*colour"),
        ({"limits": {"cpu_s": "abc"}}, r"limits\.cpu_s='abc' is not a number"),
        ({"limits": "abc"}, "limits=abc is not a mapping, {a: …} or null"),
        ({"workers": "x"}, "workers=x is not a whole number or null"),
    ],
)
def test_settings_of_the_wrong_kind_are_named_before_anything_runs(settings, message: str):
    with pytest.raises(ConfigError, match=message):
        humaneval("nowhere.jsonl", **settings)


@pytest.mark.slow
def test_all_canonical_solutions_pass_and_empty_bodies_fail(test_data: Path):
    task = humaneval(str(test_data / "humaneval/HumanEval.jsonl.gz"))
    assert len(task.items) == 164
    whole = [(item, item.answer, False) for item in task.items]
    assert [
        i.name for i, (ok, _) in zip(task.items, task.grade(whole), strict=True) if not ok
    ] == []
    none = [(item, "    pass\n", False) for item in task.items]
    assert not any(ok for ok, _ in task.grade(none))
