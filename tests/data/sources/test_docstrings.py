"""Documented functions as questions: what is asked, what is answered, what is left out."""

import ast

import pytest

from plm.data.conversations import Conversation, check
from plm.data.sources.docstrings import docstrings
from plm.errors import ConfigError


def talks(direction: str) -> dict[str, list[str]]:
    origin = docstrings(["python"], direction=direction, only={"python": ["python/textwrap.py"]})
    found = {}
    for document in origin:
        talk = Conversation.from_text(document.text)
        check(talk.messages)
        found[document.name] = [message["content"] for message in talk.messages]
    return found


def name_of(found: dict[str, list[str]], function: str) -> list[str]:
    return next(said for name, said in found.items() if f".{function}:" in name)


def test_explain():
    found = talks("explain")
    assert len(found) >= 4
    asked, answer = name_of(found, "dedent")
    assert asked == "What does the function dedent(text) of python.textwrap do?"
    assert answer == "Remove any common leading whitespace from every line in `text`."


def test_write():
    found = talks("write")
    asked, answer = name_of(found, "shorten")
    assert asked.startswith("Write the Python function shorten(text, width, **kwargs). Collapse")
    (made,) = ast.parse(answer).body
    assert made.name == "shorten" and ast.get_docstring(made) is None
    assert "Collapse" not in answer


def test_methods_are_of_their_class():
    found = talks("explain")
    assert any("of python.textwrap.TextWrapper do?" in said[0] for said in found.values())


def test_an_unknown_direction_is_refused():
    with pytest.raises(ConfigError, match="direction=read: one of explain, write"):
        docstrings(["python"], direction="read")
