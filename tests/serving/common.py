"""A tiny model that is served, one that says what it is told to, and a client."""

import json
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from functools import lru_cache
from http.client import HTTPConnection
from types import SimpleNamespace
from typing import Any

import torch
from tokenizers import Tokenizer

from plm.data import tokenizer as bpe
from plm.formats.chat import Chat
from plm.rollout.completion import Event
from plm.rollout.engine import Engine
from plm.rollout.sampling import Sampling
from plm.rollout.text import GrowingText, Vocabulary
from tests.model.common import tiny

MARKS = ["<|endoftext|>", "<|im_start|>", "<|im_end|>"]
STOPS = (0, 2)
CONTEXT = 256
ASKED = [{"role": "user", "content": "Where is the town?"}]


@lru_cache
def tokenizer() -> Tokenizer:
    return bpe.train(["Some text of a town, äöü.\n"] * 3, vocab_size=290, special_tokens=MARKS)


@lru_cache
def model(dtype: torch.dtype = torch.float64):
    sizes = ("scale.vocab_size=290", f"scale.max_position_embeddings={CONTEXT}")
    return tiny(*sizes, dtype=dtype)


@lru_cache
def chat() -> Chat:
    return Chat(tokenizer(), end_of_text=MARKS[0])


def engine(**settings: Any) -> Engine:
    """In fp64: what else is under way cannot change a token."""
    settings = {"rows": 8, "stop_ids": STOPS, **settings}
    return Engine(model(), **{"tokenizer": tokenizer(), **settings})


class Scripted:
    """Says one text to whoever asks, a token a step, like an engine.

    Args:
        text: that it says.
        rows, longest: as an engine has them.
        broken: a step number at which it fails, once.
        held: an event without which no step is made.
    """

    def __init__(
        self,
        text: str,
        *,
        rows: int = 2,
        longest: int = CONTEXT,
        broken: int | None = None,
        held: threading.Event | None = None,
    ) -> None:
        self.tokenizer, self.rows, self.longest = tokenizer(), rows, longest
        self.model = SimpleNamespace(vocab_size=290)
        self.stop_ids, self.vocabulary = STOPS, Vocabulary(tokenizer())
        self.tokens = [*self.tokenizer.encode(text).ids, self.stop_ids[0]]
        self.broken, self.held, self.steps = broken, held, 0
        self.cancelled: list[int] = []
        self.added: list[tuple[list[int], Sampling]] = []
        self.open: dict[tuple[int, int], tuple[int, int, GrowingText]] = {}

    @property
    def idle(self) -> bool:
        return not self.open

    def add(self, prompt: Sequence[int], sampling: Sampling, *, group: int = 1) -> int:
        self.added.append((list(prompt), sampling))
        for sample in range(group):
            text = GrowingText(self.vocabulary, sampling.stop)
            self.open[len(self.added), sample] = (0, sampling.max_new_tokens, text)
        return len(self.added)

    def cancel(self, request: int) -> None:
        self.cancelled.append(request)
        self.open = {key: row for key, row in self.open.items() if key[0] != request}

    def clear(self) -> None:
        self.open.clear()

    def advance(self) -> list[Event]:
        if not self.open:
            return []
        if self.held is not None:
            # Short, so that whatever else is asked of the engine is done soon.
            self.held.wait(0.01)
            if not self.held.is_set():
                return []
        self.steps += 1
        if self.steps == self.broken:
            raise RuntimeError("out of order")
        events = []
        for (request, sample), (place, most, text) in list(self.open.items()):
            token, said, finish = self.tokens[place], "", None
            if token in self.stop_ids:
                finish, said = "stop", text.flush()
            else:
                said = text.push(token)
                if place + 1 == most:
                    finish, said = "length", said + text.flush()
            events.append(Event(request, sample, token, -0.5, said, finish))
            self.open[request, sample] = (place + 1, most, text)
            if finish:
                del self.open[request, sample]
        return events


@contextmanager
def serving(app: Any) -> Iterator[int]:
    """The app on a free port of this machine; the port."""
    import uvicorn

    server = uvicorn.Server(
        uvicorn.Config(app, port=0, log_level="error", timeout_graceful_shutdown=1)
    )
    thread = threading.Thread(target=server.run)
    thread.start()
    try:
        until(lambda: server.started)
        yield server.servers[0].sockets[0].getsockname()[1]
    finally:
        server.should_exit = True
        thread.join()


def until(holds: Callable[[], bool], seconds: float = 20) -> None:
    """Wait for something that other threads bring about."""
    end = time.monotonic() + seconds
    while not holds():
        assert time.monotonic() < end, "it never came"
        time.sleep(0.005)


def ask(
    port: int,
    path: str,
    body: Any = None,
    *,
    method: str | None = None,
    headers: dict[str, str] | None = None,
) -> tuple[int, Any]:
    """Status and JSON; a body that is bytes goes as it is."""
    connection = HTTPConnection("127.0.0.1", port, timeout=20)
    raw = body if isinstance(body, bytes) or body is None else json.dumps(body).encode()
    given = {"Content-Type": "application/json", **(headers or {})}
    connection.request(method or ("GET" if body is None else "POST"), path, raw, given)
    response = connection.getresponse()
    text = response.read()
    connection.close()
    return response.status, json.loads(text)


def streamed(port: int, path: str, body: dict[str, Any]) -> list[dict[str, Any]]:
    """The chunks of a stream that ends as it should."""
    connection = HTTPConnection("127.0.0.1", port, timeout=20)
    raw = json.dumps({**body, "stream": True})
    connection.request("POST", path, raw, {"Content-Type": "application/json"})
    response = connection.getresponse()
    assert response.status == 200
    assert response.getheader("content-type").startswith("text/event-stream")
    parts = response.read().decode().split("\n\n")
    connection.close()
    assert parts[-2:] == ["data: [DONE]", ""]
    assert all(part.startswith("data: {") for part in parts[:-2])
    return [json.loads(part.removeprefix("data: ")) for part in parts[:-2]]
