"""Pairs in the forms that people keep them in, and what is no pair."""

import json
import math

import pytest

from plm.data.conversations import BadConversation
from plm.data.pairs import (
    SHOWN,
    Pair,
    check,
    check_kind,
    check_shown,
    name_of,
    parse,
    prompts,
    said,
)
from plm.errors import ConfigError
from plm.preference import common
from plm.rounds.template import Template, default_text


def user(text):
    return {"role": "user", "content": text}


def assistant(text, **more):
    return {"role": "assistant", "content": text, **more}


SYSTEM = {"role": "system", "content": "Be brief."}
ONE = Pair([user("Q?")], "Right.", "Wrong.")
BEFORE = [user("One?"), assistant("1."), user("Q?")]
LONG = Pair(BEFORE, "Right.", "Wrong.")

FORMS = {
    "texts": ({"prompt": "Q?", "chosen": "Right.", "rejected": "Wrong."}, ONE),
    "messages": (
        {"prompt": BEFORE, "chosen": [assistant("Right.")], "rejected": [assistant("Wrong.")]},
        LONG,
    ),
    "a message each": (
        {"prompt": "Q?", "chosen": assistant("Right."), "rejected": assistant("Wrong.")},
        ONE,
    ),
    "whole conversations": (
        {
            "prompt": "Q?",
            "chosen": [*BEFORE, assistant("Right.")],
            "rejected": [*BEFORE, assistant("Wrong.")],
        },
        LONG,
    ),
    "without a prompt": (
        {"chosen": [*BEFORE, assistant("Right.")], "rejected": [*BEFORE, assistant("Wrong.")]},
        LONG,
    ),
    "one of them whole": (
        {"prompt": [SYSTEM, *BEFORE], "chosen": "Right.", "rejected": [*BEFORE, assistant("No.")]},
        Pair([SYSTEM, *BEFORE], "Right.", "No."),
    ),
    "ShareGPT": (
        {
            "prompt": [{"from": "human", "value": "Q?"}],
            "chosen": {"from": "gpt", "value": "Right."},
            "rejected": {"from": "gpt", "value": "Wrong."},
        },
        ONE,
    ),
    "UltraFeedback, binarised": (
        {
            "prompt": "Q?",
            "prompt_id": "f0e37e9f",
            "chosen": [user("Q?"), assistant("Right.")],
            "rejected": [user("Q?"), assistant("Wrong.")],
            "messages": [user("Q?"), assistant("Right.")],
            "score_chosen": 8.5,
            "score_rejected": 3,
        },
        Pair([user("Q?")], "Right.", "Wrong.", 8.5, 3.0),
    ),
    "UltraFeedback": (
        {
            "source": "flan",
            "instruction": "Q?",
            "models": ["a", "b", "c", "d"],
            "completions": [
                {"model": "a", "response": "Middle.", "overall_score": 7},
                {"model": "b", "response": "Wrong.", "overall_score": 2.5},
                {"model": "c", "response": "Right.", "overall_score": 9},
                {"model": "d", "response": "Also right.", "overall_score": 9},
            ],
        },
        Pair([user("Q?")], "Right.", "Wrong.", 9.0, 2.5),
    ),
    "a system message and tools": (
        {
            "prompt": "Q?",
            "chosen": "Right.",
            "rejected": "Wrong.",
            "system": "Be brief.",
            "tools": json.dumps([{"name": "add"}]),
        },
        Pair([SYSTEM, user("Q?")], "Right.", "Wrong.", tools=[{"name": "add"}]),
    ),
}


@pytest.mark.parametrize(("row", "pair"), FORMS.values(), ids=FORMS)
def test_forms(row, pair):
    found = parse(row)
    check(found)
    assert found == pair
    assert Pair.from_text(found.to_text()) == pair
    assert parse(row, "completions" if "completions" in row else "pair") == pair


def test_as_text_lines_stand_as_they_are():
    pair = Pair([user('A\n\t"b" \\n')], "C\nd", "ü", 1.0)
    assert "A\n\t" in pair.to_text() and "C\nd" in pair.to_text() and "ü" in pair.to_text()
    assert Pair.from_text(pair.to_text()) == pair
    assert said(pair.to_text()) == 'A\n\t"b" \\n\nC\nd\nü'
    assert said("cut") == "cut"


def pair_row(**change):
    row = {"prompt": "Q?", "chosen": "Right.", "rejected": "Wrong.", **change}
    return {key: value for key, value in row.items() if value is not None}


TWO = [{"response": "a", "overall_score": 1}, {"response": "b", "overall_score": 1}]
BAD = {
    "no object": ([1], "no pair", r"a row must be an object, got \[1\]"),
    "other keys": ({"text": "a"}, "no pair", "a row must have chosen and rejected, .* it has text"),
    "no rejected": (pair_row(rejected=None), "no pair", "a row must have chosen and rejected"),
    "no prompt": (pair_row(prompt=None), "no pair", "prompt is missing, and the answers come with"),
    "prompt of a number": (pair_row(prompt=3), "no conversation", "prompt: messages is not a list"),
    "number": (pair_row(chosen=3), "no text", "chosen is neither text nor messages: 3"),
    "empty": (pair_row(rejected=" \n"), "empty answer", "rejected says nothing"),
    "no messages": (pair_row(chosen=[]), "no answer", "chosen: its last message is not the assis"),
    "equal": (pair_row(rejected="Right.\n"), "equal answers", "chosen and rejected are the same"),
    "who asks last": (pair_row(prompt=BEFORE[:2]), "does not alternate", "nobody waits"),
    "a question of a tool": (
        pair_row(
            prompt=[
                user("a"),
                assistant("", tool_calls=[{"function": {"name": "f", "arguments": {}}}]),
                {"role": "tool", "content": "b"},
            ]
        ),
        "does not alternate",
        "the prompt does not end with what a user says",
    ),
    "who answers last": (
        pair_row(chosen=[user("Q?")]),
        "no answer",
        "chosen: its last message is not the assistant's",
    ),
    "a call": (
        pair_row(chosen=[assistant("", tool_calls=[{"function": {"name": "f", "arguments": {}}}])]),
        "more than text",
        "chosen: the answer has tool_calls",
    ),
    "half a character": (pair_row(chosen="\ud800"), "not UTF-8", "half a surrogate pair"),
    "scores": (
        pair_row(score_chosen=1, score_rejected=2.5),
        "scores contradict",
        r"score_chosen=1.0 is less than score_rejected=2.5",
    ),
    "not a number": (
        pair_row(score_chosen=math.nan),
        "score is not a number",
        "score_chosen=nan is not a number",
    ),
    "a word": (pair_row(score_rejected="7"), "score is not a number", "score_rejected='7' is not"),
    "other prompt": (
        pair_row(chosen=[user("R?"), assistant("a")], rejected=[user("R?"), assistant("b")]),
        "prompts differ",
        "prompt is not what chosen or rejected begins with",
    ),
    "other messages": (
        pair_row(prompt=BEFORE, chosen=[user("Q?"), assistant("a")]),
        "prompts differ",
        "prompt is not what chosen or rejected begins with",
    ),
    "two prompts": (
        {"chosen": [user("Q?"), assistant("a")], "rejected": [user("R?"), assistant("b")]},
        "prompts differ",
        "chosen and rejected begin with other messages",
    ),
    "one completion": (
        {"instruction": "Q?", "completions": TWO[:1]},
        "no pair",
        "it takes two completions, here are 1",
    ),
    "no list": ({"instruction": "Q?", "completions": "a"}, "no pair", "is not a list of objects"),
    "no better": (
        {"instruction": "Q?", "completions": TWO},
        "no better answer",
        "all completions have the score 1.0",
    ),
    "no score": (
        {"instruction": "Q?", "completions": [TWO[0], {"response": "b"}]},
        "score is not a number",
        "a completion has no overall_score",
    ),
    "no question": (
        {"completions": [TWO[0], {"response": "b", "overall_score": 2}]},
        "no pair",
        "prompt is missing",
    ),
}


@pytest.mark.parametrize(("row", "reason", "error"), BAD.values(), ids=BAD)
def test_what_is_no_pair(row, reason, error):
    with pytest.raises(BadConversation, match=error) as caught:
        check(parse(row))
    assert caught.value.reason == reason
    assert "\n" not in str(caught.value)


def test_equal_scores_and_one_score_are_no_contradiction():
    check(parse(pair_row(score_chosen=1, score_rejected=1)))
    check(parse(pair_row(score_chosen=-1)))


def test_text_that_a_step_has_cut():
    with pytest.raises(BadConversation, match="not JSON, or cut by a step"):
        Pair.from_text(ONE.to_text()[:-3])


def test_settings():
    with pytest.raises(ConfigError, match="pairs: kind=dpo: one of auto, pair, completions"):
        check_kind("dpo")
    assert check_shown(["better", "nothing", "better"], "x") == ("nothing", "better")
    for wrong in ([], ["none"], "worse", 3):
        with pytest.raises(
            ConfigError, match=r"^data\.shown=.* must be a list of one or more of n"
        ):
            check_shown(wrong, "data.shown")


def test_prompts_show_what_they_are_to_show():
    template = Template("Q: {question} A: {answer}")
    assert prompts(LONG, SHOWN, template) == [
        BEFORE,
        [*BEFORE[:2], user("Q: Q? A: Wrong.")],
        [*BEFORE[:2], user("Q: Q? A: Right.")],
    ]
    assert prompts(LONG, ("better",), template) == [[*BEFORE[:2], user("Q: Q? A: Right.")]]
    assert prompts(ONE, ("nothing",), None) == [[user("Q?")]]
    assert "{question}" in default_text()


def test_kinds_are_those_of_the_losses():
    assert SHOWN == common.SHOWN


def test_names():
    assert name_of("a.jsonl:3", "nothing") == "a.jsonl:3"
    assert name_of("a.jsonl:3", "worse") == "a.jsonl (worse shown):3"
    assert name_of("a/b/3", "better") == "a/b/3 (better shown)"
