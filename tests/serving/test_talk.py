"""A conversation turn by turn: what the model is shown, and what is done when there is no room."""

import json
from pathlib import Path

import pytest

from plm.errors import ConfigError
from plm.rollout.sampling import Sampling
from plm.serving.talk import Talk
from tests.serving.common import CONTEXT, MARKS, chat, engine, tokenizer

SYSTEM = {"role": "system", "content": "Be short."}


def turn(text: str, answer: str) -> list[dict[str, str]]:
    return [{"role": "user", "content": text}, {"role": "assistant", "content": answer}]


def test_what_was_said_is_shown():
    talk = Talk(
        engine(), chat(), Sampling(max_new_tokens=8, temperature=1.0, seed=3), SYSTEM["content"]
    )
    first = talk.ask("Where?")
    said = "".join(event.text for event in talk.answer(first))
    [alone] = engine().generate([first.prompt], Sampling(8, 1.0, seed=3))
    assert said == alone.text
    talk.keep("Where?", "There.")
    second = talk.ask("When?")
    shown = [SYSTEM, *turn("Where?", "There."), {"role": "user", "content": "When?"}]
    assert second.prompt == chat().prompt(shown)
    # The same words again are not drawn the same way.
    assert second.sampling.seed != first.sampling.seed
    # An answer of no words is nothing to go on from.
    talk.keep("When?", " \n")
    assert talk.messages == turn("Where?", "There.")
    talk.clear()
    assert talk.ask("Where?") == first


def test_older_turns_make_room_for_an_answer():
    talk = Talk(engine(), chat(), Sampling(max_new_tokens=100), SYSTEM["content"])
    talks = [turn(f"town {n}", "text " * 5) for n in range(6)]
    for asked, answered in talks:
        talk.keep(asked["content"], answered["content"])

    def length(kept: int) -> int:
        shown = [one for each in talks[len(talks) - kept :] for one in each]
        return len(chat().prompt([SYSTEM, *shown, {"role": "user", "content": "Now?"}]))

    kept = max(n for n in range(7) if length(n) + CONTEXT // 4 <= CONTEXT)
    assert 0 < kept < 6
    found = talk.ask("Now?")
    assert len(found.prompt) == length(kept) and found.dropped == 6 - kept
    assert found.cut and found.sampling.max_new_tokens == CONTEXT - length(kept) < 100
    # Nothing is forgotten twice, and all is saved.
    assert talk.ask("Now?").dropped == 0 and len(talk.messages) == 12


def test_a_text_that_leaves_no_room_changes_nothing():
    talk = Talk(engine(), chat(), Sampling())
    talk.keep("Where?", "There.")
    with pytest.raises(
        ConfigError, match=r"this takes \d+ tokens and the context has 256"
    ) as error:
        talk.ask("town " * 300)
    assert len(str(error.value).splitlines()) == 1
    assert talk.forgotten == 0 and len(talk.messages) == 2
    with pytest.raises(ConfigError, match="not text in UTF-8"):
        talk.ask("\udcff")
    # With room for a little, there is a short answer.
    fits = next(
        n for n in range(300, 0, -1) if len(chat().prompt([turn("a" * n, "")[0]])) < CONTEXT
    )
    found = talk.ask("a" * fits)
    assert found.cut and found.sampling.max_new_tokens == 1 and found.dropped == 1


def test_a_model_without_conversations_is_shown_the_text_alone():
    talk = Talk(engine(), None, Sampling(max_new_tokens=4))
    talk.keep("Some", " text")
    assert talk.ask("of a").prompt == tokenizer().encode("of a").ids
    marks = talk.ask(MARKS[0]).prompt
    assert 0 not in marks and tokenizer().decode(marks) == MARKS[0]


def test_saving(tmp_path: Path):
    from plm.data.conversations import check, parse
    from plm.data.sources.conversations import conversations

    talk = Talk(engine(), chat(), Sampling(), SYSTEM["content"])
    talk.keep("Wö?", "There.")
    path = tmp_path / "talk.jsonl"
    talk.save(path, settings={"seed": 0})
    told = json.loads(path.read_text(encoding="utf-8"))
    assert told == {"messages": [SYSTEM, *turn("Wö?", "There.")], "settings": {"seed": 0}}
    check(parse(told).messages)
    # The file as it is, as fine-tuning reads it.
    assert len(list(conversations(str(path)))) == 1
    with pytest.raises(ConfigError, match="no/where is no folder; make it, or save elsewhere"):
        talk.save(tmp_path / "no" / "where" / "talk.jsonl")
    with pytest.raises(ConfigError, match="exists already; remove it, or save under another"):
        talk.save(path)
    assert [one.name for one in tmp_path.iterdir()] == ["talk.jsonl"]
