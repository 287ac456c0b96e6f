"""Conversations in the forms that people keep them in, checked and brought into one."""

import json
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

from plm.errors import ConfigError, DataError

ROLES = ("system", "user", "assistant", "tool")
KINDS = ("auto", "messages", "prompt_completion", "sharegpt", "alpaca")
KEPT = ("role", "content", "reasoning_content", "tool_calls", "tool_call_id", "name")
"""What is taken of a message, in this order."""

_SHAREGPT = {
    "human": "user",
    "gpt": "assistant",
    "chatgpt": "assistant",
    "bing": "assistant",
    "bard": "assistant",
    "model": "assistant",
    "function_call": "assistant",
    "observation": "tool",
    "function_response": "tool",
    "function": "tool",
}
_CALL = "<tool_call>"
_HALF = re.compile("[\ud800-\udfff]")
_WHITE = {"n": "\n", "r": "\r", "t": "\t"}


class BadConversation(DataError):
    """A row that is no conversation, or that cannot be trained on.

    Attributes:
        reason: a few words, the same for all rows that it holds for.
    """

    def __init__(self, reason: str, detail: str) -> None:
        super().__init__(detail)
        self.reason = reason

    def __reduce__(self) -> tuple:
        # An exception is made anew from its text alone when it comes from another process.
        return BadConversation, (self.reason, str(self))


@dataclass(frozen=True)
class Conversation:
    """A conversation.

    Attributes:
        messages: each with `role`, one of ROLES, and `content`; an assistant's perhaps with
            `tool_calls`, each `{"type": "function", "function": {"name", "arguments"}}`.
        tools: JSON schemas of the functions that it may call; None: there are none.
        given: so many messages at the beginning are a prompt: what the assistant says there is not
            trained on.
    """

    messages: list[dict[str, Any]]
    tools: list[dict[str, Any]] | None = None
    given: int = 0

    def to_text(self) -> str:
        """As one text, the same for equal conversations: JSON in which line breaks and tabs stand
        as they are, so that steps which look at words and lines see those of the messages."""
        held: dict[str, Any] = {"messages": self.messages}
        if self.tools:
            held["tools"] = self.tools
        if self.given:
            held["given"] = self.given
        return as_text(held)

    @classmethod
    def from_text(cls, text: str) -> "Conversation":
        """From what `to_text` gave, or a JSON list of messages.

        Raises:
            BadConversation: it is neither, perhaps since a step has cut it.
        """
        held = from_text(text)
        talk = parse({"messages": held} if isinstance(held, list) else held, "messages")
        given = held.get("given", 0) if isinstance(held, dict) else 0
        return replace(talk, given=given if isinstance(given, int) else 0)


def as_text(held: Mapping[str, Any]) -> str:
    """JSON in which line breaks and tabs stand as they are."""
    text = json.dumps(held, ensure_ascii=False)
    return re.sub(r"\\(.)", lambda found: _WHITE.get(found[1], found[0]), text)


def from_text(text: str) -> Any:
    """What `as_text` was given.

    Raises:
        BadConversation: it is not JSON, perhaps since a step has cut it.
    """
    try:
        return json.loads(text, strict=False)
    except (ValueError, RecursionError) as error:
        raise BadConversation("not JSON", f"not JSON, or cut by a step: {error}") from error


def said(text: str) -> str:
    """What is said in a conversation, from its `to_text`; what a step has made none of, as it is.

    For a tokenizer's sample: the form that it is kept in is never seen by a model.
    """
    try:
        messages = Conversation.from_text(text).messages
    except BadConversation:
        return text
    return "\n".join(str(message.get("content") or "") for message in messages)


def check_kind(kind: str) -> None:
    """Raise ConfigError for a form that is not known."""
    if kind not in KINDS:
        raise ConfigError(f"conversations: kind={kind}: one of {', '.join(KINDS)}")


def parse(row: Mapping[str, Any], kind: str = "auto") -> Conversation:
    """Bring a row into one form; `check` says whether it is a conversation that makes sense.

    Args:
        row: `messages`, a list of role and content; `prompt` and `completion`, texts or such lists;
            `conversations`, a list of from and value (ShareGPT); or `instruction`, perhaps `input`,
            and `output` (Alpaca). Each perhaps with `system`, a text, and `tools`, a list or its
            JSON.
        kind: which of these, one of KINDS; auto goes by the keys.
    Raises:
        BadConversation: it lacks what its form needs.
        ConfigError: no such kind.
    """
    check_kind(kind)
    if not isinstance(row, Mapping):
        raise BadConversation("no conversation", f"a row must be an object, got {_short(row)}")
    kind = _kind(row) if kind == "auto" else kind
    messages, given = _READ[kind](row), 0
    system = row.get("system")
    if system and not (messages and messages[0].get("role") == "system"):
        messages.insert(0, {"role": "system", "content": _text(system, "system")})
    if kind == "prompt_completion" and isinstance(row.get("completion"), list | tuple):
        given = len(messages) - len(row["completion"])
    elif kind == "prompt_completion":
        given = len(messages) - 1
    if not any(message["role"] == "assistant" for message in messages[:given]):
        given = 0
    return Conversation(messages, _tools(row.get("tools")), given)


def check(messages: Sequence[Mapping[str, Any]], *, answered: bool | None = True) -> None:
    """Whether messages make a conversation.

    Perhaps a system message, then user and assistant in turn, user first. Behind an assistant that
    calls functions come their results, role tool, and then the assistant again.

    Args:
        messages: as `parse` gives them.
        answered: the assistant must have the last word; False: it must be asked for the next;
            None: either.
    Raises:
        BadConversation: the message by its number from 0, and what is wrong with it.
    """
    if not messages:
        raise BadConversation("no conversation", "there is no message")
    before = ""
    for index, message in enumerate(messages):
        where = f"message {index}"
        role, calls = message.get("role"), message.get("tool_calls")
        if role not in ROLES:
            raise BadConversation(
                "unknown role", f"{where}: role {_short(role)} is none of {', '.join(ROLES)}"
            )
        allowed = _FOLLOWS[before]
        if role not in allowed:
            raise BadConversation(
                "does not alternate",
                f"{where}: role {role!r} where {' or '.join(map(repr, allowed))} must be; user and "
                "assistant take turns, user first, after one system message at most",
            )
        content = message.get("content")
        if not isinstance(content, str):
            raise BadConversation("no text", f"{where}: content is not text: {_short(content)}")
        if role == "assistant" and not content.strip() and not calls:
            raise BadConversation("empty answer", f"{where}: the assistant says nothing")
        _check_calls(calls, where, trained=answered is True)
        if found := _HALF.search(json.dumps(message, ensure_ascii=False, default=str)):
            raise BadConversation(
                "not UTF-8", f"{where}: half a surrogate pair ({found[0]!r}) is no text in UTF-8"
            )
        called = role == "assistant" and (calls or _CALL in content)
        before = "call" if called else str(role)
    _check_end(before, len(messages) - 1, answered)


def _check_end(last: str, index: int, answered: bool | None) -> None:
    says = "the last word is not the assistant's" if answered else "nobody waits for an answer"
    wanted = {True: ("assistant", "call"), False: ("user", "tool")}
    allowed = wanted[True] + wanted[False] if answered is None else wanted[answered]
    if last == "system":
        says = "nothing follows the system message"
    if last not in allowed:
        raise BadConversation("does not alternate", f"message {index}: {says}")


_FOLLOWS = {
    "": ("system", "user"),
    "system": ("user",),
    "user": ("assistant",),
    "assistant": ("user",),
    "call": ("tool", "user"),
    "tool": ("assistant", "tool"),
}


def _check_calls(calls: Any, where: str, trained: bool) -> None:
    for call in calls or []:
        function = call.get("function") if isinstance(call, Mapping) else None
        if not isinstance(function, Mapping) or not isinstance(function.get("name"), str):
            raise BadConversation("bad tool call", f"{where}: a tool call needs a function's name")
        given = function.get("arguments")
        # To be learnt, text must be an object's JSON; a model's own failed call may be sent back.
        read = _json(given, None) if isinstance(given, str) and trained else given
        if not isinstance(read, Mapping if trained else str | Mapping):
            raise BadConversation(
                "bad tool call",
                f"{where}: the arguments of a tool call must be an object, got {_short(given)}",
            )


def _kind(row: Mapping[str, Any]) -> str:
    for kind, keys in _KEYS.items():
        if all(row.get(key) is not None for key in keys):
            return kind
    raise BadConversation(
        "no conversation",
        "a row must have messages, prompt and completion, conversations, or instruction and "
        f"output; it has {', '.join(map(str, row)) or 'nothing'} (name the right ones as `fields` "
        "of the origin)",
    )


_KEYS = {
    "messages": ("messages",),
    "sharegpt": ("conversations",),
    "prompt_completion": ("prompt", "completion"),
    "alpaca": ("instruction", "output"),
}


def _messages(value: Any, key: str) -> list[dict[str, Any]]:
    if not isinstance(value, list | tuple):
        raise BadConversation("no conversation", f"{key} is not a list: {_short(value)}")
    return [_message(item, f"{key}, message {i}") for i, item in enumerate(value)]


def _message(item: Any, where: str) -> dict[str, Any]:
    if not isinstance(item, Mapping):
        raise BadConversation("no conversation", f"{where}: must have role and content")
    shared = "from" in item and "role" not in item
    role, content = (item.get("from"), item.get("value")) if shared else _said(item)
    found = {name: item[name] for name in KEPT if item.get(name) is not None}
    found["role"] = _SHAREGPT.get(role, role) if shared and isinstance(role, str) else role
    if role == "function_call" and shared and (call := _read_call(content)):
        content, found["tool_calls"] = "", [call]
    elif found.get("tool_calls") is not None:
        found["tool_calls"] = _calls(found["tool_calls"])
    found["content"] = _joined(content)
    if found["content"] is None and found.get("tool_calls"):
        found["content"] = ""
    return {name: found[name] for name in KEPT if name in found}


def _said(item: Mapping[str, Any]) -> tuple[Any, Any]:
    return item.get("role"), item.get("content", item.get("value"))


def _joined(content: Any) -> Any:
    """The text of a list of parts, where all of them are text."""
    if not isinstance(content, list | tuple):
        return content
    parts = [part.get("text") if isinstance(part, Mapping) else part for part in content]
    return "".join(parts) if all(isinstance(part, str) for part in parts) else content


def _calls(calls: Any) -> Any:
    """Tool calls with their arguments as objects, where they came as JSON's text."""
    if not isinstance(calls, list | tuple):
        return [calls]
    return [_call(call) for call in calls]


def _call(call: Any) -> Any:
    if not isinstance(call, Mapping):
        return call
    function = call.get("function", call)
    if not isinstance(function, Mapping):
        return call
    arguments = function.get("arguments", function.get("parameters"))
    if isinstance(arguments, str):
        arguments = _json(arguments, arguments)
    made = {"type": "function", "function": {"name": function.get("name"), "arguments": arguments}}
    return {"id": call["id"], **made} if isinstance(call.get("id"), str) else made


def _read_call(text: Any) -> Any:
    read = _json(text, None) if isinstance(text, str) else text
    return _call(read) if isinstance(read, Mapping) and "name" in read else None


def _json(text: str, otherwise: Any) -> Any:
    try:
        return json.loads(text)
    except (ValueError, RecursionError):
        return otherwise


def _tools(value: Any) -> list[dict[str, Any]] | None:
    read = _json(value, value) if isinstance(value, str) and value.strip() else value
    if not read:
        return None
    if not isinstance(read, list | tuple) or not all(isinstance(t, Mapping) for t in read):
        raise BadConversation("bad tools", f"tools is not a list of objects: {_short(value)}")
    return [dict(tool) for tool in read]


def _prompt_completion(row: Mapping[str, Any]) -> list[dict[str, Any]]:
    found = []
    for key, role in (("prompt", "user"), ("completion", "assistant")):
        value = row.get(key)
        if isinstance(value, str):
            found.append({"role": role, "content": value})
        else:
            found += _messages(value, key)
    return found


def _alpaca(row: Mapping[str, Any]) -> list[dict[str, Any]]:
    asked = _text(row.get("instruction"), "instruction")
    if row.get("input"):
        asked += "\n\n" + _text(row["input"], "input")
    return [
        {"role": "user", "content": asked},
        {"role": "assistant", "content": _text(row.get("output"), "output")},
    ]


_READ = {
    "messages": lambda row: _messages(row.get("messages"), "messages"),
    "prompt_completion": _prompt_completion,
    "sharegpt": lambda row: _messages(row.get("conversations"), "conversations"),
    "alpaca": _alpaca,
}


def _text(value: Any, key: str) -> str:
    if not isinstance(value, str):
        raise BadConversation("no text", f"{key} is not text: {_short(value)}")
    return value


def _short(value: Any) -> str:
    return repr(value)[:60]
