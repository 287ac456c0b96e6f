"""The keys of a request's body: which there are, and what they may hold."""

from collections.abc import Callable, Mapping
from difflib import get_close_matches
from typing import Any

from plm.serving.errors import ApiError

MOST_STOPS = 16


def _number(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool)


def _whole(value: Any) -> bool:
    return isinstance(value, int) and not isinstance(value, bool)


def _ids(value: Any) -> bool:
    return isinstance(value, list) and bool(value) and all(map(_whole, value))


def _texts(value: Any) -> bool:
    return isinstance(value, list) and all(isinstance(text, str) for text in value)


def _objects(value: Any) -> bool:
    return isinstance(value, list) and all(isinstance(item, dict) for item in value)


def _prompt(value: Any) -> bool:
    several = isinstance(value, list) and value and all(map(_ids, value))
    return isinstance(value, str) or _ids(value) or bool(value and _texts(value)) or bool(several)


Kind = tuple[Callable[[Any], bool], str]
NUMBER: Kind = (_number, "a number")
WHOLE: Kind = (_whole, "a whole number")
FLAG: Kind = (lambda value: isinstance(value, bool), "true or false")
TEXT: Kind = (lambda value: isinstance(value, str), "text")
STOP: Kind = (lambda value: isinstance(value, str) or _texts(value), "text or a list of texts")
OBJECT: Kind = (lambda value: isinstance(value, dict), "an object")
OBJECTS: Kind = (_objects, "a list of objects")
PROMPT: Kind = (_prompt, "text, a list of texts, a list of ids, or a list of lists of ids")
ANY: Kind = (lambda value: True, "anything")

_SHARED: dict[str, Kind] = {
    "model": TEXT,
    "max_tokens": WHOLE,
    "temperature": NUMBER,
    "top_p": NUMBER,
    "top_k": WHOLE,
    "min_p": NUMBER,
    "repetition_penalty": NUMBER,
    "frequency_penalty": NUMBER,
    "presence_penalty": NUMBER,
    "seed": WHOLE,
    "stop": STOP,
    "n": WHOLE,
    "stream": FLAG,
    "stream_options": OBJECT,
    "logit_bias": OBJECT,
}
# Labels and accounts, which change no answer: taken and not looked at.
_UNREAD = (
    "user metadata store service_tier safety_identifier prompt_cache_key prompt_cache_retention"
).split()
CHAT: dict[str, Kind] = {
    **_SHARED,
    "messages": OBJECTS,
    "max_completion_tokens": WHOLE,
    "room": WHOLE,
    "logprobs": FLAG,
    "top_logprobs": WHOLE,
    "tools": OBJECTS,
    "tool_choice": ANY,
    "parallel_tool_calls": FLAG,
    "response_format": OBJECT,
    **dict.fromkeys(_UNREAD, ANY),
}
TEXTS: dict[str, Kind] = {
    **_SHARED,
    "prompt": PROMPT,
    "logprobs": WHOLE,
    "echo": FLAG,
    "best_of": WHOLE,
    "suffix": TEXT,
    **dict.fromkeys(_UNREAD, ANY),
}
# Keys of which one value alone is served: that value, and what to do instead.
_ONLY: dict[str, tuple[Any, str]] = {
    "frequency_penalty": (0, "there is repetition_penalty instead"),
    "presence_penalty": (0, "there is repetition_penalty instead"),
    "logit_bias": ({}, "leave it out"),
    "top_logprobs": (0, "the chosen tokens' own log-probabilities are given, by logprobs"),
    "response_format": ({"type": "text"}, "ask for the form in a message"),
    "parallel_tool_calls": (True, "an answer may hold several calls"),
    "echo": (False, "leave it out"),
    "best_of": (1, "ask for n answers and choose among them"),
    "suffix": ("", "leave it out"),
}


def given(body: Any, known: Mapping[str, Kind]) -> dict[str, Any]:
    """The keys of a body that hold something, each checked for its kind.

    Raises:
        ApiError: 422 for a value of the wrong kind; 400 for a key that is not known, or a value
            that is not served.
    """
    if not isinstance(body, dict):
        raise ApiError(422, "the body must be a JSON object")
    found = {}
    for key, value in body.items():
        if key not in known:
            near = get_close_matches(key, known, n=1)
            hint = f"; did you mean {near[0]}?" if near else ""
            raise ApiError(400, f"unknown key {key[:80]!r}{hint}", param=key, code="unknown_key")
        if value is None:
            continue
        fits, kind = known[key]
        if not fits(value):
            raise ApiError(422, f"{key} must be {kind}, got {_short(value)}", param=key)
        if key in _ONLY and value != _ONLY[key][0]:
            only, instead = _ONLY[key]
            # Nothing at all can be given by leaving the key out.
            rather = f", only {_short(only)}" if only not in ({}, "") else ""
            message = f"{key}={_short(value)} is not served{rather}; {instead}"
            raise ApiError(400, message, param=key, code="unsupported_value")
        found[key] = value
    if isinstance(found.get("stop"), str):
        found["stop"] = [found["stop"]]
    if len(found.get("stop", [])) > MOST_STOPS:
        raise ApiError(400, f"stop holds more than {MOST_STOPS} texts", param="stop")
    return found


def within(found: Mapping[str, Any], key: str, low: float, high: float) -> None:
    """Raise ApiError 400 where a number lies outside its range."""
    # Written so that it does not hold for NaN.
    if key in found and not low <= found[key] <= high:
        message = f"{key}={_short(found[key])} must lie from {low:g} to {high:g}"
        raise ApiError(400, message, param=key, code="invalid_value")


def _short(value: Any) -> str:
    import json

    text = json.dumps(value, ensure_ascii=False, default=str)
    return text if len(text) <= 60 else text[:59] + "…"
