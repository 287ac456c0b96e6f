"""Dialogues on tasks: the tasks' answers, seeds that share nothing, the settings' shares."""

import pytest

from plm.data.conversations import Conversation, check
from plm.data.sources.dialogues import dialogues
from plm.data.sources.exercises import solve
from plm.errors import ConfigError

pytest.importorskip("reasoning_gym")

FAMILIES = {"chain_sum": {"min_digits": 2, "max_digits": 3}, "number_sorting": {"problems": 50}}


def talks(**settings) -> list[Conversation]:
    origin = dialogues(FAMILIES, **{"seed": 7, "problems": 100, **settings})
    return [Conversation.from_text(document.text) for document in origin]


def test_every_answer_is_the_tasks():
    found = talks()
    assert len(found) == 150
    tasks = {}
    for family, settings in (("chain_sum", FAMILIES["chain_sum"]), ("number_sorting", {})):
        for _, task, worked in solve(family, settings, 7, 100):
            tasks[worked.question] = task["answer"]
    for talk in found:
        check(talk.messages)
        asked, answered = (message["content"] for message in talk.messages)
        assert answered.rpartition("Answer: ")[2] == tasks[asked]


def test_a_second_turn_and_a_system_prompt_come_as_often_as_asked():
    found = talks(second_turn=0.5, system="Think.", system_share=0.25)
    lengths = [sum(m["role"] == "user" for m in talk.messages) for talk in found]
    assert set(lengths) == {1, 2} and sum(lengths) >= 149
    # Four standard deviations.
    share = lengths.count(2) / len(lengths)
    assert abs(share - 0.5) < 4 * (0.25 / len(lengths)) ** 0.5
    begun = sum(talk.messages[0] == {"role": "system", "content": "Think."} for talk in found)
    assert abs(begun / len(found) - 0.25) < 4 * (0.1875 / len(found)) ** 0.5
    for talk in found:
        check(talk.messages)
    assert [t.messages for t in found] == [
        t.messages for t in talks(second_turn=0.5, system="Think.", system_share=0.25)
    ]


def test_without_steps_the_answers_are_left():
    whole, short = (
        [talk.messages[-1]["content"] for talk in talks(steps=steps)] for steps in (True, False)
    )
    assert short == ["Answer: " + said.rpartition("Answer: ")[2] for said in whole]


def test_a_share_of_the_problems_has_steps():
    whole, mixed, short = (
        [talk.messages for talk in talks(steps=steps, second_turn=0.3)]
        for steps in (True, 0.3, False)
    )
    # Turns are drawn apart from steps.
    assert [len(m) for m in whole] == [len(m) for m in mixed] == [len(m) for m in short]
    said = [
        [message["content"] for talk in some for message in talk if message["role"] == "assistant"]
        for some in (whole, mixed, short)
    ]
    with_steps = [one == long != brief for long, one, brief in zip(*said, strict=True)]
    assert all(one in (long, brief) for long, one, brief in zip(*said, strict=True))
    # Four standard deviations.
    assert abs(sum(with_steps) / 150 - 0.3) < 4 * (0.21 / 150) ** 0.5


def test_tasks_move_with_the_seed():
    """Why evaluation's seeds lie far from training's: task i of a seed is task 0 of seed + i."""
    first = [task["answer"] for _, task, _ in solve("chain_sum", {}, 7, 12)]
    later = [task["answer"] for _, task, _ in solve("chain_sum", {}, 10, 9)]
    assert first[3:] == later


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"families": {"sudoku": {}}}, "no worked solution for 'sudoku'"),
        ({"second_turn": 1.5}, "second_turn=1.5 is not a share"),
        ({"steps": 1.5}, "steps=1.5 is not a share"),
        ({"system_share": -0.1}, "system_share=-0.1 is not a share"),
    ],
)
def test_what_is_refused(settings: dict, message: str):
    with pytest.raises(ConfigError, match=message):
        dialogues(**{"families": FAMILIES, "seed": 0, "problems": 1, **settings})
