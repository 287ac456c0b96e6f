"""What a request asks for: its prompts, how they are drawn, and how the answer is told."""

import json
import secrets
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from plm.data.conversations import BadConversation, check, parse
from plm.errors import ConfigError
from plm.rollout.sampling import Sampling
from plm.serving import fields
from plm.serving.errors import ApiError
from plm.serving.served import Served

DEFAULT_TEXT_TOKENS = 16
"""New tokens of /v1/completions where none are asked for, as OpenAI's."""
MOST_ANSWERS = 128
# Closer to 0, scores in fp32 divided by it are no numbers any more.
_COLDEST = 1e-5
_SAME = ("temperature", "top_p", "min_p", "repetition_penalty", "seed")


@dataclass(frozen=True)
class Wanted:
    """A request that was found in order.

    Attributes:
        chat: it is a conversation; otherwise texts to go on from.
        prompts: ids.
        sampling: one a prompt.
        n: answers a prompt.
        stream: token by token.
        usage: a stream tells at its end how many tokens there were.
        logprobs: of the chosen tokens are told.
        tools: calls in the answer are told apart.
    """

    chat: bool
    prompts: list[list[int]]
    sampling: list[Sampling]
    n: int
    stream: bool
    usage: bool
    logprobs: bool
    tools: bool = False


def read_json(raw: bytes) -> Any:
    """A body.

    Raises:
        ApiError: 400, it is no JSON, or holds text that is none in UTF-8.
    """
    try:
        body = json.loads(raw)
        json.dumps(body, ensure_ascii=False).encode()
    except UnicodeEncodeError as error:
        raise ApiError(400, "the body holds half a surrogate pair, no text in UTF-8") from error
    except (ValueError, RecursionError) as error:
        said = " ".join(str(error).split())
        raise ApiError(400, f"the body is not JSON: {said}", code="invalid_json") from error
    return body


def read_chat(body: Any, served: Served) -> Wanted:
    """A conversation that is to be answered.

    Raises:
        ApiError: it cannot be.
    """
    found = fields.given(body, fields.CHAT)
    _check_model(found, served)
    if served.chat is None:
        raise ApiError(
            400,
            f"{served.name} knows no conversations, it only continues text: use /v1/completions",
            code="no_chat_template",
        )
    tools = _tools(found)
    ids = _prompt_of(found.get("messages"), tools, served)
    two = [key for key in ("max_tokens", "max_completion_tokens") if key in found]
    if len(two) == 2 and found[two[0]] != found[two[1]]:
        raise ApiError(400, "max_tokens and max_completion_tokens differ; give one", param=two[0])
    key = two[-1] if two else None
    return Wanted(
        chat=True,
        prompts=[ids],
        logprobs=found.get("logprobs", False),
        tools=tools is not None,
        **_answer(found, [ids], served, key=key, default=None),
    )


def read_completion(body: Any, served: Served) -> Wanted:
    """Texts that are to be continued.

    Raises:
        ApiError: they cannot be.
    """
    found = fields.given(body, fields.TEXTS)
    _check_model(found, served)
    if "prompt" not in found:
        raise ApiError(422, "prompt is missing", param="prompt")
    if found.get("logprobs", 0) != 0:
        raise ApiError(
            400,
            f"logprobs={found['logprobs']} is not served: only the chosen tokens' own "
            "log-probabilities are; ask for logprobs=0",
            param="logprobs",
            code="unsupported_value",
        )
    prompts = _prompts(found["prompt"], served)
    return Wanted(
        chat=False,
        prompts=prompts,
        logprobs="logprobs" in found,
        **_answer(found, prompts, served, key="max_tokens", default=DEFAULT_TEXT_TOKENS),
    )


def _check_model(found: Mapping[str, Any], served: Served) -> None:
    if found.get("model", served.name) != served.name:
        raise ApiError(
            404,
            f"the model {found['model'][:80]!r} is not here; this server has {served.name!r}",
            param="model",
            code="model_not_found",
        )


def _prompt_of(messages: Any, tools: Any, served: Served) -> list[int]:
    if messages is None:
        raise ApiError(422, "messages is missing", param="messages")
    # A name of OpenAI's for the same.
    renamed = [
        {**one, "role": "system"} if one.get("role") == "developer" else one for one in messages
    ]
    try:
        talk = parse({"messages": renamed}, "messages").messages
        check(talk, answered=False)
        return served.chat.prompt(talk, tools=tools)
    except (BadConversation, ConfigError) as error:
        raise ApiError(400, str(error), param="messages", code="invalid_messages") from error


def _tools(found: Mapping[str, Any]) -> list[dict[str, Any]] | None:
    tools, choice = found.get("tools") or None, found.get("tool_choice", "auto")
    if choice not in ("auto", "none"):
        raise ApiError(
            400,
            "tool_choice may be auto or none: a model cannot be made to call a function here",
            param="tool_choice",
            code="unsupported_value",
        )
    for index, tool in enumerate(tools or []):
        function = tool.get("function")
        if tool.get("type", "function") != "function" or not isinstance(function, dict):
            raise ApiError(422, f"tools[{index}] must be a function", param="tools")
        if not isinstance(function.get("name"), str):
            raise ApiError(422, f"tools[{index}] has no name", param="tools")
    return None if choice == "none" else tools


def _prompts(prompt: Any, served: Served) -> list[list[int]]:
    if isinstance(prompt, str) or isinstance(prompt[0], int):
        prompt = [prompt]
    if len(prompt) > MOST_ANSWERS:
        raise ApiError(400, f"more than {MOST_ANSWERS} prompts in one request", param="prompt")
    ids = [served.encode(one) if isinstance(one, str) else one for one in prompt]
    if not all(ids):
        raise ApiError(400, "an empty prompt, and no token that ends a text", param="prompt")
    for token in (token for one in ids for token in one):
        if not 0 <= token < served.vocab_size:
            most = served.vocab_size - 1
            raise ApiError(
                400, f"prompt holds id {token}; they go from 0 to {most}", param="prompt"
            )
    return ids


def _answer(
    found: Mapping[str, Any],
    prompts: Sequence[Sequence[int]],
    served: Served,
    *,
    key: str | None,
    default: int | None,
) -> dict[str, Any]:
    """What chats and texts have in common, by the names that Wanted has."""
    ranges = {
        "n": (1, MOST_ANSWERS),
        "temperature": (0, 100),
        "top_k": (0, 2**31),
        "repetition_penalty": (0.01, 100),
    }
    for name, (low, high) in ranges.items():
        fields.within(found, name, low, high)
    if 0 < found.get("temperature", 1) < _COLDEST:
        message = (
            f"temperature={found['temperature']} is too near to 0; 0 takes the likeliest token"
        )
        raise ApiError(400, message, param="temperature", code="invalid_value")
    n = found.get("n", 1)
    if n * len(prompts) > MOST_ANSWERS:
        raise ApiError(400, f"more than {MOST_ANSWERS} answers in one request", param="n")
    settings = {
        "seed": found.get("seed", secrets.randbits(63)),
        "stop": tuple(found.get("stop", ())),
    }
    for name in ("top_p", "min_p", "repetition_penalty"):
        if name in found:
            settings[name] = found[name]
    settings["temperature"] = found.get("temperature", 1.0)
    settings["top_k"] = min(found.get("top_k", 0), served.vocab_size)
    lengths = [_new_tokens(found, key, default, len(one), served.context) for one in prompts]
    try:
        sampling = [Sampling(max_new_tokens=length, **settings) for length in lengths]
    except ConfigError as error:
        param = str(error).partition("=")[0]
        raise ApiError(400, str(error), param=param, code="invalid_value") from error
    options = found.get("stream_options", {})
    return {
        "sampling": sampling,
        "n": n,
        "stream": found.get("stream", False),
        "usage": options.get("include_usage") is True,
    }


def _new_tokens(
    found: Mapping[str, Any], key: str | None, default: int | None, prompt: int, context: int
) -> int:
    """Tokens that may be drawn: those asked for, or all that have room."""
    room = context - prompt
    asked = found.get(key, default) if key else default
    if asked is not None and asked < 1:
        raise ApiError(400, f"{key}={asked} must be at least 1", param=key, code="invalid_value")
    # `room` is our own: a client that drops old turns asks for it rather than for a cut answer.
    least = asked or max(found.get("room", 1), 1)
    if room < least:
        took = f"{prompt} token" + "s" * (prompt != 1)
        wanted = f"{least} new one" + "s" * (least > 1)
        rather = "ask for fewer, or " * (prompt < context) + "shorten the prompt"
        raise ApiError(
            400,
            f"the prompt's {took} and {wanted} pass the context of {context}; {rather}",
            param=key or "messages",
            code="context_length_exceeded",
        )
    return asked or room
