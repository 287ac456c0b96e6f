"""Answers in the form of OpenAI's API: whole, and as the chunks of a stream."""

from __future__ import annotations

import secrets
import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any

from plm.rollout.completion import LENGTH, Event
from plm.serving.requests import Wanted
from plm.serving.served import Served
from plm.serving.tool_calls import ToolCalls


@dataclass
class Piece:
    """What one token adds to an answer."""

    text: str
    calls: list[dict[str, Any]]
    logprobs: list[dict[str, Any]]
    finish: str | None


@dataclass
class Growing:
    """One answer while it grows.

    Attributes:
        calling: tells calls apart; None: all is text.
        telling: log-probabilities are wanted.
        text: what was said, calls apart.
        calls: of functions.
        logprobs: where wanted, one entry a token but the one that ends a turn or text.
        drawn: tokens, that one included.
        finish: why it ended, in the API's words; None: it has not.
    """

    served: Served
    calling: ToolCalls | None
    telling: bool
    text: str = ""
    calls: list[dict[str, Any]] = field(default_factory=list)
    logprobs: list[dict[str, Any]] = field(default_factory=list)
    drawn: int = 0
    finish: str | None = None

    def take(self, event: Event) -> Piece:
        """A token more."""
        said, calls = event.text, []
        if self.calling is not None:
            said, calls = self.calling.push(said)
        self.calls += calls
        if event.finish is not None:
            if self.calling is not None:
                said += self.calling.flush(bool(self.calls))
            self.finish = "length" if event.finish == LENGTH else "stop"
            if self.calls and self.finish == "stop":
                self.finish = "tool_calls"
        told = self.telling and event.token not in self.served.stop_ids
        entries = [self._entry(event)] if told else []
        self.text += said
        self.drawn += 1
        self.logprobs += entries
        return Piece(said, calls, entries, self.finish)

    def _entry(self, event: Event) -> dict[str, Any]:
        raw = self.served.bytes_of(event.token)
        return {
            "token": raw.decode("utf-8", errors="replace"),
            "logprob": event.logp,
            "bytes": list(raw),
            "top_logprobs": [],
        }


class Answer:
    """All that is told of one request.

    Args:
        wanted: what it asks for.
        served: who answers.
    """

    def __init__(self, wanted: Wanted, served: Served) -> None:
        self.wanted = wanted
        self.rows = [
            Growing(served, ToolCalls() if wanted.tools else None, wanted.logprobs)
            for _ in range(wanted.n * len(wanted.prompts))
        ]
        kind = "chatcmpl" if wanted.chat else "cmpl"
        self._head = {
            "id": f"{kind}-{secrets.token_hex(12)}",
            "created": int(time.time()),
            "model": served.name,
        }

    def index_of(self, prompt: int, event: Event) -> int:
        """Which choice a token belongs to: prompt by prompt, n each."""
        return prompt * self.wanted.n + event.sample

    def take(self, prompt: int, event: Event) -> None:
        """A token for what is told whole."""
        self.rows[self.index_of(prompt, event)].take(event)

    def whole(self) -> dict[str, Any]:
        """The body of a response, once every row has ended."""
        kind = "chat.completion" if self.wanted.chat else "text_completion"
        choices = [self._choice(index, row) for index, row in enumerate(self.rows)]
        return {**self._head, "object": kind, "choices": choices, "usage": self.usage()}

    def usage(self) -> dict[str, int]:
        """Tokens of the prompts, counted once each, and of the answers."""
        prompt = sum(map(len, self.wanted.prompts))
        drawn = sum(row.drawn for row in self.rows)
        return {
            "prompt_tokens": prompt,
            "completion_tokens": drawn,
            "total_tokens": prompt + drawn,
        }

    def opening(self) -> Iterator[dict[str, Any]]:
        """Chunks of a stream before the first token."""
        if self.wanted.chat:
            for index in range(len(self.rows)):
                yield self._chunk(index, delta={"role": "assistant", "content": ""})

    def chunks(self, prompt: int, event: Event) -> Iterator[dict[str, Any]]:
        """Chunks of a stream that a token makes; none where nothing became certain."""
        index = self.index_of(prompt, event)
        row = self.rows[index]
        called, start = len(row.calls), len(row.text)
        piece = row.take(event)
        if not self.wanted.chat:
            if piece.text or piece.finish or piece.logprobs:
                told = self._text_logprobs(piece.logprobs, start)
                yield self._chunk(index, text=piece.text, logprobs=told, finish=piece.finish)
            return
        if piece.text or piece.logprobs:
            told = self._chat_logprobs(piece.logprobs)
            yield self._chunk(index, delta={"content": piece.text}, logprobs=told)
        for number, call in enumerate(piece.calls, start=called):
            yield self._chunk(index, delta={"tool_calls": [{"index": number, **call}]})
        if piece.finish:
            yield self._chunk(index, delta={}, finish=piece.finish)

    def closing(self) -> Iterator[dict[str, Any]]:
        """Chunks of a stream behind the last token."""
        if self.wanted.usage:
            yield {**self._head, "object": self._streamed, "choices": [], "usage": self.usage()}

    @property
    def _streamed(self) -> str:
        return "chat.completion.chunk" if self.wanted.chat else "text_completion"

    def _chunk(
        self,
        index: int,
        *,
        delta: dict[str, Any] | None = None,
        text: str = "",
        logprobs: dict[str, Any] | None = None,
        finish: str | None = None,
    ) -> dict[str, Any]:
        said = {"text": text} if delta is None else {"delta": delta}
        choice = {"index": index, **said, "logprobs": logprobs, "finish_reason": finish}
        return {**self._head, "object": self._streamed, "choices": [choice]}

    def _choice(self, index: int, row: Growing) -> dict[str, Any]:
        if not self.wanted.chat:
            told = self._text_logprobs(row.logprobs, 0)
            said: dict[str, Any] = {"text": row.text}
        else:
            told = self._chat_logprobs(row.logprobs)
            text = row.text or (None if row.calls else "")
            message = {"role": "assistant", "content": text, "refusal": None}
            if row.calls:
                message["tool_calls"] = row.calls
            said = {"message": message}
        return {"index": index, **said, "logprobs": told, "finish_reason": row.finish}

    def _chat_logprobs(self, entries: list[dict[str, Any]]) -> dict[str, Any] | None:
        return {"content": entries, "refusal": None} if self.wanted.logprobs else None

    def _text_logprobs(self, entries: list[dict[str, Any]], start: int) -> dict[str, Any] | None:
        if not self.wanted.logprobs:
            return None
        offsets, place = [], start
        for entry in entries:
            offsets.append(place)
            place += len(entry["token"])
        return {
            "tokens": [entry["token"] for entry in entries],
            "token_logprobs": [entry["logprob"] for entry in entries],
            "top_logprobs": None,
            "text_offset": offsets,
        }
