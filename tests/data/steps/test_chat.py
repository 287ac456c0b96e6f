"""Conversations by hand, and every way in which one is none."""

import json

import pytest

from plm.data.conversations import Conversation
from plm.data.steps.chat import chat
from plm.errors import DataError


def talk(*pairs):
    return json.dumps([{"role": role, "content": said} for role, said in pairs])


ASK, ANSWER = ("user", "Two and two?"), ("assistant", "Four.\n")


def test_by_hand(run):
    texts = [talk(ASK, ANSWER), talk(("system", "Be brief."), ASK, ANSWER, ASK), talk(("user", ""))]
    turns = "<|im_start|>user\nTwo and two?<|im_end|>\n"
    both = turns + "<|im_start|>assistant\nFour.\n<|im_end|>\n"
    assert run(chat, texts) == (
        [
            both,
            "<|im_start|>system\nBe brief.<|im_end|>\n" + both + turns,
            "<|im_start|>user\n<|im_end|>\n",
        ],
        {},
    )


def test_tools_and_calls_as_the_chat_template_has_them(run):
    call = {"type": "function", "function": {"name": "add", "arguments": {"a": 2}}}
    talk = Conversation(
        [
            {"role": "user", "content": "Two and\ntwo?"},
            {"role": "assistant", "content": "", "tool_calls": [call]},
            {"role": "tool", "content": "4"},
            {"role": "assistant", "content": "Four."},
        ],
        [{"name": "add"}],
    )
    (text,), _ = run(chat, [talk.to_text()])
    assert text.startswith("<|im_start|>system\n# Tools\n") and '\n{"name": "add"}\n' in text
    assert text.endswith(
        "<|im_start|>user\nTwo and\ntwo?<|im_end|>\n<|im_start|>assistant\n<tool_call>\n"
        '{"name": "add", "arguments": {"a": 2}}\n</tool_call><|im_end|>\n<|im_start|>user\n'
        "<tool_response>\n4\n</tool_response><|im_end|>\n"
        "<|im_start|>assistant\nFour.<|im_end|>\n"
    )


@pytest.mark.parametrize(
    ("text", "error"),
    [
        ("[", "chat: 0: not JSON, or cut by a step: Expecting value"),
        ("{}", "chat: 0: messages is not a list: None"),
        ("[]", "chat: 0: there is no message"),
        ('["hello"]', "chat: 0: messages, message 0: must have role and content"),
        ('[{"role": "user"}]', "chat: 0: message 0: content is not text: None"),
        ('[{"role": 1, "content": "a"}]', "chat: 0: message 0: role 1 is none of system, user"),
        (
            r'[{"role": "user", "content": "\ud83d"}]',
            "message 0: half a surrogate pair ('\\ud83d')",
        ),
        (talk(("system", "a")), "chat: 0: message 0: nothing follows the system message"),
        (talk(ANSWER), "message 0: role 'assistant' where 'system' or 'user' must be; user and as"),
        (talk(ASK, ("assistant", " ")), "message 1: the assistant says nothing"),
        (talk(ASK, ASK), "message 1: role 'user' where 'assistant' must be"),
        (talk(("system", "a"), ASK, ("tool", "b")), "message 2: role 'tool' where 'assistant' mu"),
        (talk(ASK, ("system", "a")), "message 1: role 'system' where 'assistant' must be"),
    ],
)
def test_what_is_no_conversation(run, text, error):
    with pytest.raises(DataError) as caught:
        run(chat, [text])
    assert error in str(caught.value)
