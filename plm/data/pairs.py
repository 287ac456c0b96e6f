"""Pairs of a better and a worse answer, in the forms that people keep them in, made into one."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from plm.data import conversations
from plm.data.conversations import BadConversation, as_text
from plm.errors import ConfigError
from plm.rounds.template import Template

SHOWN = ("nothing", "worse", "better")
"""What a prompt may show besides the question: no answer, the pair's worse or its better one."""

KINDS = ("auto", "pair", "completions")
"""Forms of a row, see `parse`."""

_SIDES = ("chosen", "rejected")
_SCORES = ("score_chosen", "score_rejected")


@dataclass(frozen=True)
class Pair:
    """Two answers to one prompt.

    Attributes:
        prompt: messages, as of a conversation; the last one is the user's.
        chosen, rejected: the better and the worse answer.
        score_chosen, score_rejected: what they were scored, the higher the better; None: not known.
        tools: JSON schemas of functions, see Conversation.
    """

    prompt: list[dict[str, Any]]
    chosen: str
    rejected: str
    score_chosen: float | None = None
    score_rejected: float | None = None
    tools: list[dict[str, Any]] | None = None

    def to_text(self) -> str:
        """As one text, the same for equal pairs, of the form of `Conversation.to_text`."""
        held: dict[str, Any] = {"prompt": self.prompt}
        held |= {key: getattr(self, key) for key in _SIDES}
        held |= {key: score for key in _SCORES if (score := getattr(self, key)) is not None}
        if self.tools:
            held["tools"] = self.tools
        return as_text(held)

    @classmethod
    def from_text(cls, text: str) -> "Pair":
        """From what `to_text` gave.

        Raises:
            BadConversation: it is none, perhaps since a step has cut it.
        """
        return parse(conversations.from_text(text), "pair")


def said(text: str) -> str:
    """What is said in a pair, from its `to_text`; what a step has made none of, as it is.

    For a tokenizer's sample: the form that it is kept in is never seen by a model.
    """
    try:
        pair = Pair.from_text(text)
    except BadConversation:
        return text
    asked = [str(message.get("content") or "") for message in pair.prompt]
    return "\n".join([*asked, pair.chosen, pair.rejected])


def check_kind(kind: str) -> None:
    """Raise ConfigError for a form that is not known."""
    if kind not in KINDS:
        raise ConfigError(f"pairs: kind={kind}: one of {', '.join(KINDS)}")


def parse(row: Mapping[str, Any], kind: str = "auto") -> Pair:
    """Bring a row into one form; `check` says whether it is a pair that one can learn from.

    Args:
        row: pair: `chosen` and `rejected`, perhaps with `score_chosen` and `score_rejected`; each
            an answer's text, its message, or the whole conversation that it ends. `prompt`, a text
            or messages, may be left out where both are conversations: it is what they begin with.
            completions (UltraFeedback): `instruction`, and `completions`, a list of `response` and
            `overall_score`, of which the best and the worst are taken. Either perhaps with
            `system`, a text, and `tools`.
        kind: which of these, one of KINDS; auto goes by the keys.
    Raises:
        BadConversation: it lacks what its form needs.
        ConfigError: no such kind.
    """
    check_kind(kind)
    if not isinstance(row, Mapping):
        raise BadConversation("no pair", f"a row must be an object, got {repr(row)[:60]}")
    if (_kind(row) if kind == "auto" else kind) == "completions":
        row = _extremes(row)
    for key in _SIDES:
        if row.get(key) is None:
            raise BadConversation("no pair", f"{key} is missing")
    (asked, chosen), (also, rejected) = (_answer(row[key], key) for key in _SIDES)
    scores = [_score(row.get(key), key) for key in _SCORES]
    talk = _prompt(row, asked, also)
    return Pair(talk.messages, chosen, rejected, *scores, talk.tools)


def check(pair: Pair) -> None:
    """Whether there is something to be learnt from a pair.

    Raises:
        BadConversation: an answer is empty, both are the same, their scores say the opposite, or
            the prompt is no conversation in which the user waits for an answer.
    """
    conversations.check(pair.prompt, answered=False)
    if pair.prompt[-1]["role"] != "user":
        raise BadConversation("does not alternate", "the prompt does not end with what a user says")
    for key in _SIDES:
        if not getattr(pair, key).strip():
            raise BadConversation("empty answer", f"{key} says nothing")
        conversations.check(answered(pair.prompt, getattr(pair, key)))
    if pair.chosen.strip() == pair.rejected.strip():
        raise BadConversation("equal answers", "chosen and rejected are the same text")
    better, worse = pair.score_chosen, pair.score_rejected
    if better is not None and worse is not None and better < worse:
        raise BadConversation(
            "scores contradict", f"score_chosen={better} is less than score_rejected={worse}"
        )


def answered(prompt: Sequence[Mapping[str, Any]], answer: str) -> list[dict[str, Any]]:
    """The conversation that a prompt and an answer make."""
    return [*(dict(m) for m in prompt), {"role": "assistant", "content": answer}]


def given_of(prompt: Sequence[Mapping[str, Any]]) -> int:
    """How many messages are `Conversation.given`: a prompt's, if the assistant speaks in it."""
    return len(prompt) if any(message["role"] == "assistant" for message in prompt) else 0


def check_shown(shown: Any, key: str) -> tuple[str, ...]:
    """Kinds of prompts, each once, in the order of SHOWN.

    Raises:
        ConfigError: it is no list of such kinds, or an empty one; `key` is what the error calls it.
    """
    if not isinstance(shown, list | tuple) or not shown or not set(shown) <= set(SHOWN):
        raise ConfigError(f"{key}={shown!r} must be a list of one or more of {', '.join(SHOWN)}")
    return tuple(kind for kind in SHOWN if kind in shown)


def prompts(
    pair: Pair, shown: Sequence[str], template: Template | None
) -> list[list[dict[str, Any]]]:
    """What stands before the answers, once for each kind of SHOWN that `shown` names.

    Args:
        pair: checked.
        shown: kinds.
        template: how an answer is shown; None: `shown` names nothing alone.
    """
    answers = {"worse": pair.rejected, "better": pair.chosen}
    return [
        template.messages(pair.prompt, answers[kind])
        if template and kind in answers
        else pair.prompt
        for kind in shown
    ]


def name_of(name: str, shown: str) -> str:
    """Name of the document that a row makes with a kind of prompt.

    Args:
        name: of the row; where it has a number, that stays at the end.
        shown: one of SHOWN.
    """
    if shown == SHOWN[0]:
        return name
    file, colon, row = name.rpartition(":")
    rows = bool(colon) and row.isdecimal()
    return f"{file} ({shown} shown):{row}" if rows else f"{name} ({shown} shown)"


def _kind(row: Mapping[str, Any]) -> str:
    if all(row.get(key) is not None for key in _SIDES):
        return "pair"
    if row.get("completions") is not None:
        return "completions"
    raise BadConversation(
        "no pair",
        "a row must have chosen and rejected, perhaps prompt, or instruction and completions; it "
        f"has {', '.join(map(str, row)) or 'nothing'} (name the right ones as `fields` of the "
        "origin)",
    )


def _extremes(row: Mapping[str, Any]) -> dict[str, Any]:
    """The best and the worst of a row's completions; the first of equals."""
    listed = row.get("completions")
    if not isinstance(listed, list | tuple) or not all(isinstance(c, Mapping) for c in listed):
        raise BadConversation("no pair", "completions is not a list of objects")
    if len(listed) < 2:
        raise BadConversation("no pair", f"it takes two completions, here are {len(listed)}")
    scores = [_score(one.get("overall_score"), "overall_score") for one in listed]
    if None in scores:
        raise BadConversation("score is not a number", "a completion has no overall_score")
    order = sorted(range(len(listed)), key=lambda i: scores[i])
    worst = order[0]
    best = max(range(len(listed)), key=lambda i: scores[i])
    if scores[best] == scores[worst]:
        raise BadConversation("no better answer", f"all completions have the score {scores[best]}")
    prompt = row.get("instruction", row.get("prompt"))
    found = {key: row[key] for key in ("system", "tools") if row.get(key) is not None}
    for key, score, index in zip(_SIDES, _SCORES, (best, worst), strict=True):
        found |= {key: listed[index].get("response"), score: scores[index]}
    return {**found, "prompt": prompt}


def _score(value: Any, key: str) -> float | None:
    if value is None:
        return None
    number = isinstance(value, int | float) and not isinstance(value, bool)
    if not number or not math.isfinite(value):
        raise BadConversation("score is not a number", f"{key}={repr(value)[:60]} is not a number")
    return float(value)


def _answer(value: Any, key: str) -> tuple[list[dict[str, Any]], str]:
    """The messages before an answer, where they are given with it, and its text."""
    if isinstance(value, str):
        return [], value
    listed = [value] if isinstance(value, Mapping) else value
    if not isinstance(listed, list | tuple):
        raise BadConversation("no text", f"{key} is neither text nor messages: {repr(value)[:60]}")
    *before, last = _messages(listed, key) or [{}]
    if last.get("role") != "assistant":
        raise BadConversation("no answer", f"{key}: its last message is not the assistant's")
    for extra in ("tool_calls", "reasoning_content"):
        if last.get(extra):
            raise BadConversation("more than text", f"{key}: the answer has {extra}")
    if not isinstance(last.get("content"), str):
        raise BadConversation("no text", f"{key}: the answer's content is not text")
    return before, last["content"]


def _messages(value: Any, key: str) -> list[dict[str, Any]]:
    try:
        return conversations.parse({"messages": value}, "messages").messages
    except BadConversation as error:
        raise BadConversation(error.reason, f"{key}: {error}") from error


def _prompt(
    row: Mapping[str, Any], asked: list[dict[str, Any]], also: list[dict[str, Any]]
) -> conversations.Conversation:
    """The prompt of a row whose answers came behind the messages `asked` and `also`.

    Raises:
        BadConversation: there is none, or they are of different ones.
    """
    given = row.get("prompt")
    if asked and also and asked != also:
        raise BadConversation("prompts differ", "chosen and rejected begin with other messages")
    messages = asked or also
    if not messages and given is None:
        raise BadConversation("no pair", "prompt is missing, and the answers come without it")
    if isinstance(given, str):
        own = [{"role": "user", "content": given}]
        texts = [m.get("content") for m in messages if m.get("role") == "user"]
        agrees = given.strip() in [t.strip() for t in texts if isinstance(t, str)]
    else:
        own = [] if given is None else _messages(given, "prompt")
        agrees = _without_system(own) == _without_system(messages)
        messages = messages if given is None or len(messages) > len(own) else own
    if given is not None and (asked or also) and not agrees:
        raise BadConversation("prompts differ", "prompt is not what chosen or rejected begins with")
    held = {"messages": messages or own}
    held |= {key: row[key] for key in ("system", "tools") if row.get(key) is not None}
    return conversations.parse(held, "messages")


def _without_system(messages: list[dict[str, Any]]) -> list[dict[str, Any]]:
    return [message for message in messages if message.get("role") != "system"]
