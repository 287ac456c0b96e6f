"""Conversations by hand, and every way in which one is none."""

import json

import pytest

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


@pytest.mark.parametrize(
    ("text", "error"),
    [
        ("[", "chat: 0: not JSON: Expecting value at character 1"),
        ("{}", "chat: 0: must be a list of messages, each with role and content"),
        ("[]", "chat: 0: must be a list of messages"),
        ('["hello"]', "chat: 0, message 0: must have role and content, got 'hello'"),
        ('[{"role": "user"}]', "chat: 0, message 0: content is not text: 'None'"),
        ('[{"role": 1, "content": "a"}]', "chat: 0, message 0: role is not text: '1'"),
        (r'[{"role": "user", "content": "\ud83d"}]', "message 0: content has half a surrogate pai"),
        (talk(("system", "a")), "chat: 0: nothing follows the system message"),
        (talk(ANSWER), "message 0: role 'assistant' where 'user' must be; user and assistant take"),
        (talk(ASK, ASK), "message 1: role 'user' where 'assistant' must be"),
        (talk(("system", "a"), ASK, ("tool", "b")), "message 2: role 'tool' where 'assistant' mu"),
        (talk(ASK, ("system", "a")), "message 1: role 'system' where 'assistant' must be"),
    ],
)
def test_what_is_no_conversation(run, text, error):
    with pytest.raises(DataError) as caught:
        run(chat, [text])
    assert error in str(caught.value)
