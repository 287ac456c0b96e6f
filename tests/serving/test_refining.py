"""Refining the last answer of a conversation: what the model is shown, and what stays said."""

from dataclasses import replace

import pytest

from plm.errors import ConfigError
from plm.rollout.sampling import Sampling
from plm.rounds.template import Template
from plm.serving.refining import Refining
from tests.serving.common import chat, engine, tokenizer

SHOWS = Template("{question} was answered {answer}")


def talk(**changes) -> Refining:
    made = Refining(engine(), chat(), Sampling(max_new_tokens=8), template=SHOWS)
    return replace(made, **changes)


def test_the_shown_answer_takes_the_questions_place():
    one = talk(system="Be short.")
    one.keep("Where?", "There.")
    prompt = one.refine("When?", "Now.").prompt
    shown = tokenizer().decode(prompt, skip_special_tokens=False)
    said = ["Be short.", "Where?", "There.", "When? was answered Now."]
    assert [text for text in said if text in shown] == said
    assert shown.count("When?") == 1 and len(one.messages) == 2
    # As any question, each has draws of its own.
    assert one.refine("When?", "Now.").sampling.seed != one.refine("When?", "Now.").sampling.seed


def test_the_last_answer_is_taken_back_and_no_other():
    one = talk()
    with pytest.raises(ConfigError, match="nothing was said yet"):
        one.take_back()
    one.keep("Where?", "There.")
    one.keep("When?", "Now.")
    assert one.take_back() == ("When?", "Now.")
    assert [message["content"] for message in one.messages] == ["Where?", "There."]


def test_what_cannot_be_refined_says_why():
    with pytest.raises(ConfigError, match="leave no room in the context of 256"):
        talk().refine("When?", "Now " * 300)
    for one in (talk(chat=None), talk(template=None)):
        with pytest.raises(ConfigError, match="knows no conversations, in which answers are"):
            one.refine("When?", "Now.")
        with pytest.raises(ConfigError, match="knows no conversations, in which answers are"):
            one.take_back()
