"""Chat templates rendered, by transformers' own sandboxed Jinja: the same text there and here."""

import re
from collections.abc import Mapping, Sequence
from threading import Lock
from typing import Any

from plm.data.conversations import BadConversation
from plm.errors import ConfigError

Messages = Sequence[Mapping[str, Any]]
Tools = Sequence[Mapping[str, Any]] | None
Spans = list[tuple[int, int]]

FAILS = "the chat template fails: "
_MARKED = re.compile(r"\{%-?\s*generation\s*-?%\}")
# transformers keeps which marks it has met with the compiled template, which all threads share.
_RENDERING = Lock()


def is_marked(template: str) -> bool:
    """Whether a template marks what the assistant says."""
    return bool(_MARKED.search(template))


def render(
    template: str,
    messages: Messages,
    *,
    tools: Tools = None,
    add_generation_prompt: bool = False,
    **variables: str,
) -> tuple[str, Spans]:
    """A conversation as text.

    Args:
        template: Jinja.
        messages: each with role and content, perhaps tool_calls.
        tools: JSON schemas of functions.
        add_generation_prompt: end with the beginning of an assistant's turn.
        variables: what else the template may read.
    Returns:
        The text, and (start, stop) of each stretch between the template's generation marks.
    Raises:
        BadConversation: the template fails to render it.
    """
    from transformers.utils.chat_template_utils import render_jinja_template

    marked = is_marked(template)
    with _RENDERING:
        try:
            texts, spans = render_jinja_template(
                [list(messages)],
                tools=list(tools) if tools else None,
                chat_template=template,
                return_assistant_tokens_mask=marked,
                add_generation_prompt=add_generation_prompt,
                **variables,
            )
        # A template can fail in as many ways as a program.
        except Exception as error:
            first = (str(error).splitlines() or [type(error).__name__])[0]
            raise BadConversation("the chat template fails to render", f"{FAILS}{first}") from error
    return texts[0], list(spans[0]) if marked else []


def parse(template: str, where: str) -> None:
    """Raise ConfigError for a template that is no Jinja; `where` is what the error calls it."""
    from jinja2 import TemplateSyntaxError
    from transformers.utils.chat_template_utils import render_jinja_template

    try:
        render_jinja_template([], chat_template=template)
    except TemplateSyntaxError as error:
        raise ConfigError(
            f"{where} does not parse: line {error.lineno}: {error.message}"
        ) from error
