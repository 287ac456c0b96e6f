"""The server over a real port: both endpoints, streams, many at once, clients that leave."""

import json
import socket
import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from http.client import HTTPConnection

import pytest

pytest.importorskip("starlette", reason="the server's packages (plm[serve]) are not installed")
pytest.importorskip("uvicorn", reason="the server's packages (plm[serve]) are not installed")

from plm.rollout.sampling import Sampling
from plm.serving.app import MOST_BYTES, create_app
from tests.serving.common import (
    ASKED,
    CONTEXT,
    Scripted,
    ask,
    chat,
    engine,
    serving,
    streamed,
    tokenizer,
    until,
)

CHAT, TEXT = "/v1/chat/completions", "/v1/completions"


@pytest.fixture(scope="module")
def port() -> Iterator[int]:
    with serving(create_app(engine(), chat(), "town")) as port:
        yield port


def test_models(port: int):
    status, found = ask(port, "/v1/models")
    assert status == 200 and [one["id"] for one in found["data"]] == ["town"]
    about = found["data"][0]
    assert about["object"] == "model"
    assert about["plm"] == {"context": CONTEXT, "chat": True, "rows": 8}
    assert ask(port, "/v1/models/town") == (200, about)
    status, found = ask(port, "/v1/models/city")
    assert status == 404 and found["error"]["code"] == "model_not_found"
    assert ask(port, "/health") == (200, {"status": "ok", "answers": 0})


def test_a_conversation_is_answered_as_by_the_engine(port: int):
    settings = {"temperature": 0.9, "top_p": 0.8, "top_k": 40, "min_p": 0.01, "seed": 7}
    settings["repetition_penalty"] = 1.1
    body = {"model": "town", "messages": ASKED, "max_tokens": 20, "logprobs": True, **settings}
    status, found = ask(port, CHAT, body)
    assert status == 200 and found["object"] == "chat.completion" and found["model"] == "town"
    prompt = chat().prompt(ASKED)
    [expected] = engine().generate([prompt], Sampling(max_new_tokens=20, **settings))
    [choice] = found["choices"]
    assert choice["message"] == {"role": "assistant", "content": expected.text, "refusal": None}
    assert choice["finish_reason"] == {"length": "length", "stop": "stop"}[expected.finish]
    told = choice["logprobs"]["content"]
    kept = expected.tokens[:-1] if expected.finish == "stop" else expected.tokens
    assert [one["logprob"] for one in told] == expected.logps[: len(kept)]
    raw = b"".join(bytes(one["bytes"]) for one in told)
    special = [tokenizer().id_to_token(one) for one in kept if one < 3]
    assert special or raw.decode("utf-8", errors="replace") == expected.text
    assert found["usage"] == {
        "prompt_tokens": len(prompt),
        "completion_tokens": len(expected.tokens),
        "total_tokens": len(prompt) + len(expected.tokens),
    }


def test_a_stream_says_the_same(port: int):
    body = {"messages": ASKED, "max_tokens": 30, "n": 2, "seed": 3, "logprobs": True}
    body["stream_options"] = {"include_usage": True}
    _, whole = ask(port, CHAT, body)
    chunks = streamed(port, CHAT, body)
    assert {chunk["object"] for chunk in chunks} == {"chat.completion.chunk"}
    assert len({chunk["id"] for chunk in chunks}) == 1
    assert chunks[-1]["choices"] == [] and chunks[-1]["usage"] == whole["usage"]
    for index, choice in enumerate(whole["choices"]):
        mine = [one["choices"][0] for one in chunks[:-1] if one["choices"][0]["index"] == index]
        assert mine[0]["delta"] == {"role": "assistant", "content": ""}
        said = "".join(one["delta"].get("content", "") for one in mine)
        assert said == choice["message"]["content"] and len(mine) > 10
        told = [e for one in mine if one["logprobs"] for e in one["logprobs"]["content"]]
        assert told == choice["logprobs"]["content"]
        ends = [one["finish_reason"] for one in mine]
        assert ends == [None] * (len(mine) - 1) + [choice["finish_reason"]]
    first, second = (choice["message"]["content"] for choice in whole["choices"])
    assert first != second


def test_texts_are_continued(port: int):
    ids = tokenizer().encode("of a").ids
    body = {"prompt": ["Some", "of a"], "max_tokens": 8, "n": 2, "seed": 1, "logprobs": 0}
    status, found = ask(port, TEXT, body)
    assert status == 200 and found["object"] == "text_completion"
    assert [choice["index"] for choice in found["choices"]] == [0, 1, 2, 3]
    alone = ask(port, TEXT, {**body, "prompt": ids})[1]["choices"]
    texts = [choice["text"] for choice in found["choices"]]
    assert texts[2:] == [choice["text"] for choice in alone]
    told = found["choices"][0]["logprobs"]
    assert len(told["tokens"]) == len(told["token_logprobs"]) == len(told["text_offset"]) == 8
    assert told["text_offset"][:2] == [0, len(told["tokens"][0])]
    chunks = streamed(port, TEXT, body)
    for index, text in enumerate(texts):
        mine = [one["choices"][0] for one in chunks if one["choices"][0]["index"] == index]
        assert "".join(one["text"] for one in mine) == text
        offsets = [o for one in mine if one["logprobs"] for o in one["logprobs"]["text_offset"]]
        assert len(offsets) == 8 and offsets == sorted(offsets)
    # Sixteen tokens where none are asked for, as many as have room in a conversation.
    assert ask(port, TEXT, {"prompt": "a"})[1]["usage"]["completion_tokens"] <= 16


def test_many_at_once_get_what_each_gets_alone(port: int):
    bodies = [
        {"messages": [{"role": "user", "content": "town " * n}], "seed": n, "max_tokens": 40 + n}
        for n in range(1, 9)
    ]

    def said(body: dict) -> str:
        chunks = streamed(port, CHAT, body)
        return "".join(one["choices"][0]["delta"].get("content", "") for one in chunks)

    alone = [said(body) for body in bodies]
    with ThreadPoolExecutor(8) as pool:
        assert list(pool.map(said, bodies)) == alone
    assert len(set(alone)) == 8


def test_a_client_that_leaves_ends_its_answer():
    held, said = threading.Event(), Scripted("Some text of a town " * 200)
    said.longest = 10**6
    app = create_app(said, chat(), "town")
    with serving(app) as port:
        for stream in (True, False):
            held.clear()
            said.held, steps = None, said.steps
            if not stream:
                said.held = held
            body = json.dumps({"messages": ASKED, "stream": stream, "n": 2}).encode()
            head = (
                f"POST {CHAT} HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/json\r\n"
                f"Content-Length: {len(body)}\r\n\r\n"
            )
            before = len(said.cancelled)
            with socket.create_connection(("127.0.0.1", port)) as client:
                client.sendall(head.encode() + body)
                if stream:
                    client.recv(100)
                    said.held = held
                until(lambda: app.state.worker.rows == 2)
            until(lambda before=before: len(said.cancelled) > before)
            until(lambda: app.state.worker.rows == 0)
            assert said.idle and said.steps - steps < len(said.tokens)


def test_no_room_is_503():
    held, said = threading.Event(), Scripted("Some text", rows=2)
    said.held = held
    with (
        serving(create_app(said, chat(), "town", waiting=1)) as port,
        ThreadPoolExecutor(3) as pool,
    ):
        body = {"messages": ASKED}
        three = [pool.submit(ask, port, CHAT, body) for _ in range(3)]
        until(lambda: len(said.added) == 3)
        status, found = ask(port, CHAT, body)
        assert status == 503 and found["error"]["type"] == "server_error"
        assert found["error"]["message"].startswith("3 answers are under way or wait, and 3 may")
        held.set()
        assert [one.result()[0] for one in three] == [200] * 3
        assert ask(port, CHAT, body)[0] == 200


def test_an_engine_that_fails_is_told_and_goes_on(caplog):
    said = Scripted("Some text of a town", broken=3)
    with serving(create_app(said, chat(), "town")) as port:
        status, found = ask(port, CHAT, {"messages": ASKED})
        assert status == 500 and "engine failed" in found["error"]["message"]
        assert "RuntimeError: out of order" in caplog.text
        status, found = ask(port, CHAT, {"messages": ASKED})
        assert found["choices"][0]["message"]["content"] == "Some text of a town"
        # A stream has its status by then.
        said.broken = said.steps + 3
        connection = HTTPConnection("127.0.0.1", port, timeout=20)
        body = json.dumps({"messages": ASKED, "stream": True})
        connection.request("POST", CHAT, body, {"Content-Type": "application/json"})
        response = connection.getresponse()
        last = response.read().decode().split("\n\n")[-2]
        assert (
            response.status == 200 and "engine failed" in json.loads(last[6:])["error"]["message"]
        )


def test_calls_of_tools():
    written = 'I ask.\n<tool_call>\n{"name": "f", "arguments": {"x": 1}}\n</tool_call>'
    tools = [{"type": "function", "function": {"name": "f", "parameters": {"type": "object"}}}]
    said, body = Scripted(written, longest=4096), {"messages": ASKED, "tools": tools}
    with serving(create_app(said, chat(), "town")) as port:
        choice = ask(port, CHAT, body)[1]["choices"][0]
        assert said.added[-1][0] == chat().prompt(ASKED, tools=tools)
        [call] = choice["message"]["tool_calls"]
        assert choice["finish_reason"] == "tool_calls" and choice["message"]["content"] == "I ask."
        assert call["function"] == {"name": "f", "arguments": '{"x": 1}'}
        chunks = [one["choices"][0] for one in streamed(port, CHAT, body)]
        assert "".join(one["delta"].get("content", "") for one in chunks) == "I ask."
        [delta] = [one["delta"]["tool_calls"] for one in chunks if "tool_calls" in one["delta"]]
        assert delta[0]["index"] == 0 and delta[0]["function"] == call["function"]
        assert chunks[-1]["finish_reason"] == "tool_calls"
        # The answer goes back to it, and the model is asked again.
        turn = [*ASKED, choice["message"], {"role": "tool", "content": "2", "tool_call_id": "x"}]
        assert ask(port, CHAT, {"messages": turn, "tools": tools})[0] == 200
        # Without tools it is text.
        for other in ({}, {"tools": tools, "tool_choice": "none"}):
            choice = ask(port, CHAT, {"messages": ASKED, **other})[1]["choices"][0]
            assert choice["message"]["content"] == written and choice["finish_reason"] == "stop"
        assert said.added[-1][0] == chat().prompt(ASKED)


def test_a_model_without_conversations_continues_text():
    with serving(create_app(Scripted("Some text"), None, "base")) as port:
        assert ask(port, "/v1/models")[1]["data"][0]["plm"]["chat"] is False
        assert ask(port, TEXT, {"prompt": "x"})[1]["choices"][0]["text"] == "Some text"
        status, found = ask(port, CHAT, {"messages": ASKED})
        assert status == 400 and "base knows no conversations" in found["error"]["message"]


def test_requests_that_are_refused_before_they_are_read(port: int):
    cases = [
        (404, "/nowhere", None, {}, "GET /nowhere: no such address"),
        (404, "/v1/nowhere", {}, {}, "POST /v1/nowhere: no such address"),
        (405, TEXT, None, {}, "GET /v1/completions: not by GET"),
        (415, TEXT, {}, {"Content-Type": "text/plain"}, "send Content-Type: application/json"),
        (413, TEXT, b" " * (MOST_BYTES + 1), {}, "larger than 4 MiB"),
        (400, TEXT, b"{", {}, "the body is not JSON"),
        (422, TEXT, [], {}, "the body must be a JSON object"),
        (403, "/", None, {"Host": "elsewhere.example"}, "this server is called localhost"),
        (403, "/v1/models", None, {"Host": "[::"}, "this server is called localhost"),
    ]
    for status, path, body, headers, message in cases:
        found, told = ask(port, path, body, headers=headers)
        assert found == status, told
        assert message in told["error"]["message"] and "\n" not in told["error"]["message"]
        assert set(told["error"]) == {"message", "type", "param", "code"}


def test_an_address_is_open_to_other_names_where_it_is_told_to():
    with serving(create_app(Scripted("x"), chat(), "town", hosts=None)) as port:
        assert ask(port, "/v1/models", headers={"Host": "elsewhere.example"})[0] == 200


def test_nothing_is_said_to_pages_of_others(port: int):
    connection = HTTPConnection("127.0.0.1", port, timeout=20)
    headers = {"Origin": "https://elsewhere.example", "Access-Control-Request-Method": "POST"}
    connection.request("OPTIONS", CHAT, headers=headers)
    response = connection.getresponse()
    response.read()
    assert response.status == 405
    connection.request("GET", "/v1/models", headers=headers)
    response = connection.getresponse()
    response.read()
    names = {name.lower() for name, _ in response.getheaders()}
    assert not any(name.startswith("access-control") for name in names)


def test_what_is_under_way_when_the_server_ends_is_told():
    held, said = threading.Event(), Scripted("Some text")
    said.held = held
    app = create_app(said, chat(), "town")
    with ThreadPoolExecutor(1) as pool:
        with serving(app) as port:
            waiting = pool.submit(ask, port, CHAT, {"messages": ASKED})
            until(lambda: app.state.worker.rows == 1)
            threading.Thread(target=app.state.worker.stop).start()
            status, told = waiting.result()
        assert status == 503 and "stopping" in told["error"]["message"]


@pytest.mark.peers
def test_openais_own_client(port: int):
    openai = pytest.importorskip("openai")
    client = openai.OpenAI(base_url=f"http://127.0.0.1:{port}/v1", api_key="none", max_retries=0)
    assert [one.id for one in client.models.list()] == ["town"]
    asked = {"model": "town", "messages": ASKED, "max_tokens": 12, "seed": 5}
    found = client.chat.completions.create(**asked, logprobs=True)
    stream = client.chat.completions.create(**asked, stream=True)
    said = "".join(chunk.choices[0].delta.content or "" for chunk in stream)
    assert said == found.choices[0].message.content
    assert len(found.choices[0].logprobs.content) == found.usage.completion_tokens == 12
    text = client.completions.create(model="town", prompt="Some", max_tokens=4, logprobs=0, seed=1)
    ended = text.choices[0].finish_reason == "stop"
    assert len(text.choices[0].logprobs.token_logprobs) == text.usage.completion_tokens - ended
    with pytest.raises(openai.NotFoundError, match="'city' is not here"):
        client.chat.completions.create(**{**asked, "model": "city"})
    with pytest.raises(openai.BadRequestError, match="pass the context of 256"):
        client.chat.completions.create(**{**asked, "max_tokens": 4000})
