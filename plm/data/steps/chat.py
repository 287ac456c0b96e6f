"""Writes conversations out as ChatML, as plain text for pretraining.

The tokenizer takes text that looks like its special tokens for ordinary text, on purpose: nobody's
document can end a turn. So `<|im_start|>` is several tokens in what this step makes. The stage
`sft` renders conversations itself, with the real special tokens; give it the conversations.
"""

import json
import re
from collections.abc import Iterator
from typing import Any

from plm.data.documents import Document, per_document
from plm.data.tally import Tally
from plm.errors import DataError

_TURNS = ("user", "assistant")


@per_document
def chat(documents: Iterator[Document], *, tally: Tally) -> Iterator[Document]:
    """From a JSON list of {role, content} to `<|im_start|>role\\ncontent<|im_end|>\\n` a message.

    Args:
        documents: the text of each is such a list: perhaps a system message, then user and
            assistant in turn, user first.
        tally: nothing is dropped and nothing counted; what is no conversation is an error.
    Raises:
        DataError: the document, the message, and what is wrong with it.
    """
    for document in documents:
        messages = _messages(document)
        text = "".join(f"<|im_start|>{role}\n{said}<|im_end|>\n" for role, said in messages)
        yield Document(text, document.name, document.group)


def _messages(document: Document) -> list[tuple[str, str]]:
    where = f"chat: {document.name}"
    try:
        messages = json.loads(document.text)
    except json.JSONDecodeError as error:
        raise DataError(f"{where}: not JSON: {error.msg} at character {error.pos}") from error
    if not isinstance(messages, list) or not messages:
        raise DataError(f"{where}: must be a list of messages, each with role and content")
    pairs = [_message(message, f"{where}, message {i}") for i, message in enumerate(messages)]
    turns = pairs[1:] if pairs[0][0] == "system" else pairs
    if not turns:
        raise DataError(f"{where}: nothing follows the system message")
    first = len(pairs) - len(turns)
    for i, (role, _) in enumerate(turns):
        if role != (turn := _TURNS[i % 2]):
            raise DataError(
                f"{where}, message {first + i}: role {role!r} where {turn!r} must be; user and "
                "assistant take turns, user first, after one system message at most"
            )
    return pairs


def _message(message: Any, where: str) -> tuple[str, str]:
    if not isinstance(message, dict):
        raise DataError(f"{where}: must have role and content, got {str(message)[:50]!r}")
    for key in ("role", "content"):
        if not isinstance(message.get(key), str):
            raise DataError(f"{where}: {key} is not text: {str(message.get(key))[:50]!r}")
        # JSON can write half of a surrogate pair, UTF-8 cannot.
        if re.search("[\ud800-\udfff]", message[key]):
            raise DataError(f"{where}: {key} has half a surrogate pair: it is no text in UTF-8")
    return message["role"], message["content"]
