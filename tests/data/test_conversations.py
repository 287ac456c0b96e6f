"""Conversations in each form, by hand, and every way in which one is none."""

import json
import pickle

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from plm.data.conversations import (
    KINDS,
    ROLES,
    BadConversation,
    Conversation,
    check,
    parse,
    said,
)
from plm.errors import ConfigError

ASK, ANSWER = {"role": "user", "content": "Two and two?"}, {"role": "assistant", "content": "Four."}
RULE = {"role": "system", "content": "Be brief."}
ADD = {"type": "function", "function": {"name": "add", "arguments": {"a": 2}}}
CALL = {"role": "assistant", "content": "", "tool_calls": [ADD]}
RESULT = {"role": "tool", "content": "4"}


def from_(**pairs):
    return [{"from": role.rstrip("_"), "value": text} for role, text in pairs.items()]


@pytest.mark.parametrize(
    ("row", "messages"),
    [
        ({"messages": [ASK, ANSWER]}, [ASK, ANSWER]),
        ({"messages": [ASK, ANSWER], "system": "Be brief."}, [RULE, ASK, ANSWER]),
        ({"messages": [RULE, ASK, ANSWER], "system": "Other."}, [RULE, ASK, ANSWER]),
        ({"messages": [{**ASK, "id": 7, "name": None}, ANSWER]}, [ASK, ANSWER]),
        (
            {"messages": [{"role": "user", "content": [{"type": "text", "text": "a"}, "b"]}]},
            [{"role": "user", "content": "ab"}],
        ),
        ({"prompt": "Two and two?", "completion": "Four."}, [ASK, ANSWER]),
        ({"prompt": [RULE, ASK], "completion": [ANSWER]}, [RULE, ASK, ANSWER]),
        ({"conversations": from_(human="Two and two?", gpt="Four.")}, [ASK, ANSWER]),
        ({"conversations": [ASK, ANSWER]}, [ASK, ANSWER]),
        (
            {"conversations": from_(system="Be brief.", user="Two and two?", assistant="Four.")},
            [RULE, ASK, ANSWER],
        ),
        (
            {
                "conversations": from_(
                    human="Two and two?",
                    function_call='{"name": "add", "arguments": {"a": 2}}',
                    observation="4",
                    gpt="Four.",
                )
            },
            [ASK, CALL, RESULT, ANSWER],
        ),
        ({"instruction": "Two and two?", "input": "", "output": "Four."}, [ASK, ANSWER]),
        (
            {"instruction": "Add.", "input": "2 2", "output": "Four."},
            [{"role": "user", "content": "Add.\n\n2 2"}, ANSWER],
        ),
    ],
)
def test_forms(row, messages):
    assert parse(row) == Conversation(messages)


@pytest.mark.parametrize(
    "call",
    [
        ADD,
        {"function": {"name": "add", "arguments": '{"a": 2}'}},
        {"name": "add", "arguments": {"a": 2}},
        {"name": "add", "parameters": '{"a": 2}'},
    ],
)
def test_tool_calls_are_brought_into_one_form(call):
    row = {"messages": [ASK, {"role": "assistant", "content": None, "tool_calls": [call]}]}
    assert parse(row).messages == [ASK, CALL]


def test_tools_may_be_text():
    row = {"messages": [ASK, ANSWER], "tools": '[{"name": "add"}]'}
    assert parse(row).tools == [{"name": "add"}]
    assert parse({**row, "tools": "[]"}).tools is None
    with pytest.raises(BadConversation, match="tools is not a list of objects: 'add'"):
        parse({**row, "tools": "add"})


def test_answers_in_a_prompt_are_given():
    row = {
        "prompt": [ASK, ANSWER, ASK],
        "completion": [CALL, RESULT, ANSWER],
        "system": "Be brief.",
    }
    found = parse(row)
    assert (len(found.messages), found.given) == (7, 4)
    assert Conversation.from_text(found.to_text()) == found
    assert parse({"prompt": [RULE, ASK], "completion": "Four."}).given == 0


@pytest.mark.parametrize(
    ("row", "kind", "reason", "error"),
    [
        ([1], "auto", "no conversation", "a row must be an object, got [1]"),
        ({"text": "a"}, "auto", "no conversation", "and output; it has text (name the right ones"),
        ({}, "auto", "no conversation", "it has nothing"),
        ({"messages": "a"}, "auto", "no conversation", "messages is not a list: 'a'"),
        ({"messages": ["a"]}, "auto", "no conversation", "messages, message 0: must have role and"),
        ({"prompt": 1, "completion": "a"}, "auto", "no conversation", "prompt is not a list: 1"),
        ({"instruction": 1, "output": "a"}, "auto", "no text", "instruction is not text: 1"),
        ({"prompt": "a", "completion": "b"}, "alpaca", "no text", "instruction is not text: None"),
        ({"messages": [ASK], "system": 3}, "auto", "no text", "system is not text: 3"),
    ],
)
def test_rows_without_a_form(row, kind, reason, error):
    with pytest.raises(BadConversation) as caught:
        parse(row, kind)
    assert error in str(caught.value)
    assert caught.value.reason == reason
    # As it comes from a worker.
    again = pickle.loads(pickle.dumps(caught.value))
    assert (str(again), again.reason) == (str(caught.value), reason)


def test_unknown_kind():
    with pytest.raises(ConfigError, match="kind=chat: one of auto, messages, prompt_completion"):
        parse({}, "chat")


@pytest.mark.parametrize(
    "messages",
    [
        [ASK, ANSWER],
        [RULE, ASK, ANSWER, ASK, ANSWER],
        [ASK, CALL, RESULT, ANSWER],
        [RULE, ASK, CALL, RESULT, RESULT, CALL, RESULT, ANSWER, ASK, ANSWER],
        [ASK, {"role": "assistant", "content": "<tool_call>\n{}\n</tool_call>"}, RESULT, ANSWER],
        [ASK, CALL],
        [{"role": "user", "content": ""}, ANSWER],
    ],
)
def test_conversations(messages):
    check(messages)
    with pytest.raises(BadConversation, match="nobody waits for an answer"):
        check(messages, answered=False)
    check(messages[:-1], answered=False)
    check(messages, answered=None)
    check(messages[:-1], answered=None)


@pytest.mark.parametrize(
    ("messages", "reason", "error"),
    [
        ([], "no conversation", "there is no message"),
        ([{"role": "bot", "content": "a"}], "unknown role", "message 0: role 'bot' is none of sys"),
        ([{"content": "a"}], "unknown role", "message 0: role None is none of system, user, assi"),
        ([{"role": ["user"]}], "unknown role", "message 0: role ['user'] is none of"),
        ([ANSWER, ASK], "does not alternate", "message 0: role 'assistant' where 'system' or 'us"),
        ([ASK, ASK], "does not alternate", "message 1: role 'user' where 'assistant' must be; us"),
        ([ASK, ANSWER, ANSWER], "does not alternate", "message 2: role 'assistant' where 'user' m"),
        ([ASK, RULE], "does not alternate", "message 1: role 'system' where 'assistant' must be"),
        ([RULE, RULE], "does not alternate", "message 1: role 'system' where 'user' must be"),
        ([ASK, ANSWER, RESULT], "does not alternate", "message 2: role 'tool' where 'user' must"),
        ([ASK, ANSWER, ASK], "does not alternate", "message 2: the last word is not the assistant"),
        ([ASK, CALL, RESULT], "does not alternate", "message 2: the last word is not the assista"),
        ([RULE], "does not alternate", "message 0: nothing follows the system message"),
        ([ASK, {**ANSWER, "content": " \n"}], "empty answer", "message 1: the assistant says noth"),
        ([{"role": "user", "content": 4}], "no text", "message 0: content is not text: 4"),
        ([ASK, {"role": "assistant"}], "no text", "message 1: content is not text: None"),
        ([ASK, {**ANSWER, "content": "\ud83d"}], "not UTF-8", "message 1: half a surrogate pair ("),
        ([ASK, {**CALL, "tool_calls": ["add"]}], "bad tool call", "message 1: a tool call needs a"),
        (
            [ASK, {**CALL, "tool_calls": [{"function": {"name": "add"}}]}],
            "bad tool call",
            "message 1: the arguments of a tool call must be an object",
        ),
        *(
            (
                [ASK, {**CALL, "tool_calls": [{"function": {"name": "add", "arguments": text}}]}],
                "bad tool call",
                f"message 1: the arguments of a tool call must be an object, got {text!r}"[:90],
            )
            for text in ("not json", "", "3", "[" * 10**4)
        ),
    ],
)
def test_what_is_no_conversation(messages, reason, error):
    with pytest.raises(BadConversation) as caught:
        check(messages)
    assert error in str(caught.value)
    assert caught.value.reason == reason
    # What is printed can be printed.
    str(caught.value).encode()


def test_a_failed_call_of_a_model_may_be_sent_back():
    call = {"function": {"name": "add", "arguments": "not json"}}
    check([ASK, {**CALL, "tool_calls": [call]}, RESULT], answered=False)
    # OpenAI's form, as `parse` was not asked to read it.
    call = {"function": {"name": "add", "arguments": "{}"}}
    check([ASK, {**CALL, "tool_calls": [call]}, RESULT, ANSWER])


def test_as_text_it_reads_as_it_was_said():
    talk = Conversation(
        [{"role": "user", "content": 'a\n\t"b" \\n \\ é\r\x07'}, ANSWER], [{"n": 1}]
    )
    text = talk.to_text()
    assert 'a\n\t\\"b\\" \\\\n \\\\ é\r\\u0007' in text
    assert Conversation.from_text(text) == talk
    assert said(text) == 'a\n\t"b" \\n \\ é\r\x07\nFour.'
    assert said("[no JSON") == "[no JSON"


@given(st.lists(st.text(), min_size=1, max_size=4))
@settings(max_examples=100, deadline=None)
def test_any_text_comes_back(texts):
    talk = Conversation([{"role": "user", "content": text} for text in texts])
    assert Conversation.from_text(talk.to_text()) == talk
    assert len(json.loads(talk.to_text(), strict=False)["messages"]) == len(texts)


KEYS = ("role", "content", "from", "value", "tool_calls", "function", "name", "arguments", "text")
ANYTHING = st.recursive(
    st.none() | st.booleans() | st.integers() | st.text(max_size=5) | st.sampled_from(ROLES),
    lambda inner: (
        st.lists(inner, max_size=4) | st.dictionaries(st.sampled_from(KEYS), inner, max_size=4)
    ),
    max_leaves=12,
)
COLUMNS = "messages conversations prompt completion instruction input output system tools".split()
ROWS = st.dictionaries(st.sampled_from(COLUMNS), ANYTHING) | st.builds(
    lambda messages: {"messages": messages},
    st.lists(
        st.fixed_dictionaries(
            {"role": st.sampled_from(ROLES), "content": st.text() | ANYTHING},
            optional={"tool_calls": ANYTHING | st.just([ADD])},
        ),
        max_size=4,
    ),
)


def made_of(row, kind):
    """The conversation, or the reason why there is none."""
    try:
        talk = parse(row, kind)
        check(talk.messages)
    except BadConversation as error:
        return f"{error.reason}: {error}"
    return talk


@given(ROWS, st.sampled_from(KINDS))
@settings(max_examples=500, deadline=None)
def test_any_row_is_a_conversation_or_bad_with_a_reason(row, kind):
    found = made_of(row, kind)
    if isinstance(found, str):
        assert "\n" not in found
        found.encode()
    else:
        assert Conversation.from_text(found.to_text()) == found


def test_what_a_step_cut_is_none():
    text = Conversation([ASK, ANSWER]).to_text()
    with pytest.raises(BadConversation, match="not JSON, or cut by a step: Unterminated string"):
        Conversation.from_text(text[: len(text) // 2])
