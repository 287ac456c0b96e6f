"""Answers of a task that are drawn in an environment."""

import pytest

from plm.environment.common import Reply
from plm.errors import ConfigError
from plm.evaluation.common import seed_of
from plm.evaluation.environments import within
from plm.evaluation.generated import Generated, Item, drawing
from tests.environment.common import END_OF_TEXT, scripted


def _task(grade=None, **draw) -> Generated:
    items = [Item(f"q{n}", f"the cat {n}", f"the cat {n}", "42") for n in range(2)]
    grade = grade or (lambda flat: [("42" in text, text) for _, text, _ in flat])
    return Generated(lambda: (items, []), grade, drawing(draw), settings={"path": "x"})


def test_programs_are_run_and_what_they_say_is_graded():
    task = _task(samples=2, temperature=0.5, top_p=0.9)
    within({"sums": task}, "interpreter", {"max_turns": 2})
    called, plain = "<code>\nprint(6 * 7)\n</code>", f"Answer: 41{END_OF_TEXT}"
    subject = scripted([called, f"so{END_OF_TEXT}"], [plain], [plain], [plain])
    part = task.run(subject)
    assert [record["correct"] for record in part.records] == [[True, False], [False, False]]
    assert "<result>\n42\n</result>\nso" in part.records[0]["texts"][0]
    # The task says how answers are drawn, and each item its seed.
    (first, sampling, seed), *_ = subject.engine.asked
    assert (sampling.temperature, sampling.top_p) == (0.5, 0.9)
    assert seed == seed_of(0, "q0") and first == subject.prompt("the cat 0", "the cat 0")
    told = task.result(subject, [part]).settings
    assert told["environment"] == {"name": "interpreter", "max_turns": 2} and told["path"] == "x"


def test_a_prompt_without_room_has_no_answer():
    task, subject = _task(), scripted()
    task.environment = lambda subject, asked: [
        Reply([1], [1], [0.0], f"room for {one.room}", False) for one in asked
    ]
    long = subject.prompt("the cat 1", "the cat 1")
    subject.max_len = len(long) + 3
    task.items[0] = Item("q0", "the cat " * 40, "the cat " * 40, "42")
    answers, rooms = task.answered(subject, task.items)
    assert rooms[0] < 1 and rooms[1] == 3
    assert answers == [[], [("room for 3", False)]]


def test_text_ends_at_the_tasks_stop_strings():
    task, subject = _task(), scripted()
    task.stop = ("\ndef ", "\n#")
    said = iter(["return 1\n# so\ndef g", "return 2"])
    task.environment = lambda subject, asked: [
        Reply([1], [1], [0.0], next(said), True) for _ in asked
    ]
    answers, _ = task.answered(subject, task.items)
    assert answers == [[("return 1", False)], [("return 2", True)]]


@pytest.mark.parametrize(
    ("name", "own", "message"),
    [
        ("shell", {}, r"^environment=shell: there are interpreter, single"),
        ("interpreter", {"turns": 2}, r"^environment\.turns=2: interpreter has .*max_turns"),
        ("interpreter", {"temperature": 2}, r"^environment\.temperature=2: .* a task says at"),
        ("interpreter", {"_target_": "os.system"}, r"^environment\._target_=os\.system"),
    ],
)
def test_what_is_refused(name: str, own: dict, message: str):
    task = _task()
    with pytest.raises(ConfigError, match=message):
        within({"sums": task}, name, own)
    assert task.environment is None


def test_other_tasks_are_named():
    with pytest.raises(ConfigError, match=r"^environment=single: other has no answers that are"):
        within({"other": object()}, "single", {})
