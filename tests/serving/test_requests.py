"""What requests ask for, and one clear error for each that cannot be."""

import pytest

from plm.serving.errors import ApiError
from plm.serving.requests import read_chat, read_completion, read_json
from plm.serving.served import Served
from tests.serving.common import ASKED, CONTEXT, chat, engine

CALL = {"type": "function", "function": {"name": "f"}}


@pytest.fixture(scope="module")
def served() -> Served:
    return Served(engine(), chat(), "town")


def test_a_conversation(served: Served):
    body = {
        "model": "town",
        "messages": [{"role": "developer", "content": [{"type": "text", "text": "Be short."}]}],
        "temperature": None,
        "top_k": 10**6,
        "stop": "\n",
        "user": "me",
        "stream": True,
        "stream_options": {"include_usage": True},
    }
    body["messages"] += ASKED
    found = read_chat(body, served)
    system = {"role": "system", "content": "Be short."}
    assert found.prompts == [chat().prompt([system, *ASKED])]
    [how] = found.sampling
    assert how.temperature == 1.0 and how.top_k == served.vocab_size and how.stop == ("\n",)
    assert how.max_new_tokens == CONTEXT - len(found.prompts[0])
    assert found.stream and found.usage and not found.logprobs and found.n == 1
    # Nobody named a seed: another each time.
    assert read_chat(body, served).sampling[0].seed != how.seed


def test_words_of_a_user_cannot_be_marks(served: Served):
    said = [{"role": "user", "content": "<|im_end|>"}]
    [ids] = read_chat({"messages": said}, served).prompts
    assert ids.count(2) == 1
    assert 0 not in read_completion({"prompt": "<|endoftext|>"}, served).prompts[0]


def test_prompts(served: Served):
    cases = [("a", 1), (["a", "b"], 2), ([5, 6], 1), ([[5], [6, 7]], 2), ("", 1)]
    for prompt, count in cases:
        found = read_completion({"prompt": prompt}, served)
        assert len(found.prompts) == len(found.sampling) == count
        assert all(how.max_new_tokens == 16 for how in found.sampling)
    # An empty text begins where a document does.
    assert found.prompts == [[0]]


@pytest.mark.parametrize(
    ("status", "more", "message", "param"),
    [
        (404, {"model": "city"}, "the model 'city' is not here; this server has 'town'", "model"),
        (422, {"model": 3}, "model must be text, got 3", "model"),
        (422, {"messages": None}, "messages is missing", "messages"),
        (422, {"messages": "Hi"}, "messages must be a list of objects", "messages"),
        (400, {"messages": []}, "there is no message", "messages"),
        (400, {"messages": ASKED * 2}, "message 1: role 'user' where 'assistant'", "messages"),
        (400, {"messages": [{"role": "me", "content": ""}]}, "role 'me' is none of", "messages"),
        (
            400,
            {"messages": [*ASKED, {"role": "assistant", "content": "x"}]},
            "nobody waits for an answer",
            "messages",
        ),
        (
            400,
            {"messages": [{"role": "user", "content": [{"type": "image_url"}]}]},
            "content is not text",
            "messages",
        ),
        (
            400,
            {"temprature": 1},
            "unknown key 'temprature'; did you mean temperature?",
            "temprature",
        ),
        (422, {"temperature": "hot"}, 'temperature must be a number, got "hot"', "temperature"),
        (422, {"temperature": True}, "temperature must be a number, got true", "temperature"),
        (400, {"temperature": -1}, "temperature=-1 must lie from 0 to 100", "temperature"),
        (400, {"temperature": float("nan")}, "temperature=NaN must lie", "temperature"),
        (400, {"temperature": 1e-40}, "too near to 0; 0 takes the likeliest", "temperature"),
        (400, {"top_p": 0}, "top_p=0 cannot be; it must be above 0", "top_p"),
        (400, {"min_p": 2}, "min_p=2 cannot be", "min_p"),
        (422, {"top_k": 1.5}, "top_k must be a whole number", "top_k"),
        (400, {"top_k": -1}, "top_k=-1 must lie from 0", "top_k"),
        (400, {"repetition_penalty": 0}, "repetition_penalty=0 must lie", "repetition_penalty"),
        (400, {"n": 0}, "n=0 must lie from 1 to 128", "n"),
        (400, {"max_tokens": 0}, "max_tokens=0 must be at least 1", "max_tokens"),
        (400, {"max_tokens": 9, "max_completion_tokens": 8}, "differ; give one", "max_tokens"),
        (400, {"stop": [""]}, "must hold texts of at least one character", "stop"),
        (422, {"stop": [1]}, "stop must be text or a list of texts", "stop"),
        (400, {"stop": ["a"] * 17}, "more than 16 texts", "stop"),
        (422, {"stream": "yes"}, "stream must be true or false", "stream"),
        (400, {"frequency_penalty": 0.5}, "repetition_penalty instead", "frequency_penalty"),
        (400, {"presence_penalty": 0.5}, "repetition_penalty instead", "presence_penalty"),
        (400, {"logit_bias": {"5": 1}}, "is not served; leave it out", "logit_bias"),
        (400, {"top_logprobs": 2}, "chosen tokens' own log-probabilities", "top_logprobs"),
        (400, {"response_format": {"type": "json_object"}}, "is not served", "response_format"),
        (400, {"tool_choice": "required"}, "tool_choice may be auto or none", "tool_choice"),
        (422, {"tools": [{"type": "function"}]}, "tools[0] must be a function", "tools"),
        (422, {"tools": [CALL, {**CALL, "function": {}}]}, "tools[1] has no name", "tools"),
    ],
)
def test_conversations_that_cannot_be(served: Served, status, more, message: str, param: str):
    with pytest.raises(ApiError) as error:
        read_chat({"messages": ASKED, **more}, served)
    told = error.value.body()["error"]
    assert error.value.status == status and message in told["message"] and told["param"] == param
    assert told["type"] == "invalid_request_error" and len(told["message"].splitlines()) == 1


@pytest.mark.parametrize(
    ("status", "body", "message"),
    [
        (422, {}, "prompt is missing"),
        (422, {"prompt": []}, "prompt must be text, a list of texts, a list of ids"),
        (422, {"prompt": [1, "a"]}, "prompt must be text"),
        (400, {"prompt": [5, 290]}, "prompt holds id 290; they go from 0 to 289"),
        (400, {"prompt": [-1]}, "prompt holds id -1"),
        (400, {"prompt": ["a"] * 129}, "more than 128 prompts"),
        (400, {"prompt": ["a"] * 65, "n": 2}, "more than 128 answers"),
        (400, {"prompt": "a", "logprobs": 5}, "ask for logprobs=0"),
        (400, {"prompt": "a", "echo": True}, "echo=true is not served, only false"),
        (400, {"prompt": "a", "best_of": 2}, "best_of=2 is not served"),
        (400, {"prompt": "a", "suffix": "b"}, 'suffix="b" is not served; leave it out'),
        (400, {"prompt": [5], "max_tokens": 999}, "the prompt's 1 token and 999 new ones pass"),
        (400, {"prompt": "a", "messages": ASKED}, "unknown key 'messages'"),
    ],
)
def test_texts_that_cannot_be(served: Served, status: int, body: dict, message: str):
    with pytest.raises(ApiError) as error:
        read_completion(body, served)
    assert error.value.status == status and message in error.value.message


def test_past_the_context_the_numbers_are_said(served: Served):
    ids = len(chat().prompt(ASKED))
    cases = [
        (read_chat, {"messages": ASKED, "max_tokens": CONTEXT}, ids, CONTEXT),
        (read_chat, {"messages": ASKED, "max_completion_tokens": CONTEXT}, ids, CONTEXT),
        (read_chat, {"messages": ASKED, "room": CONTEXT}, ids, CONTEXT),
        (read_completion, {"prompt": [5] * 250}, 250, 16),
        (read_completion, {"prompt": [5] * CONTEXT, "max_tokens": 1}, CONTEXT, 1),
    ]
    for read, body, length, new in cases:
        with pytest.raises(ApiError) as error:
            read(body, served)
        told = error.value
        assert told.status == 400 and told.code == "context_length_exceeded"
        assert f"the prompt's {length} tokens and {new} new one" in told.message
        assert f"the context of {CONTEXT}" in told.message
    # To the last token it is fine.
    most = read_completion({"prompt": [5] * 250, "max_tokens": CONTEXT - 250}, served)
    assert most.sampling[0].max_new_tokens == CONTEXT - 250
    long = [{"role": "user", "content": "town " * 300}]
    with pytest.raises(ApiError, match="and 1 new one pass the context of 256; shorten"):
        read_chat({"messages": long}, served)


@pytest.mark.parametrize(
    "raw", [b"", b"{", b"\xff", b'{"a": "\xff"}', b"[" * 10**5, b'{"a": "\\ud800"}']
)
def test_bodies_that_are_no_json(raw: bytes):
    with pytest.raises(ApiError) as error:
        read_json(raw)
    assert error.value.status == 400 and len(error.value.message.splitlines()) == 1
