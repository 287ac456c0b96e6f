"""Calls in an answer, however it is cut into pieces."""

import json

import pytest

from plm.serving.tool_calls import ToolCalls, read

CALL = '<tool_call>\n{"name": "f", "arguments": {"x": "ä"}}\n</tool_call>'
OTHER = '<tool_call>{"name": "g"}</tool_call>'


def split(text: str, size: int) -> tuple[str, list[tuple[str, str]], list[str]]:
    """Text, calls, and the pieces of the text as they came."""
    parts, calls, calling = [], [], ToolCalls()
    for start in range(0, len(text), size):
        said, found = calling.push(text[start : start + size])
        parts.append(said)
        calls += [(one["function"]["name"], one["function"]["arguments"]) for one in found]
        assert all(one["id"].startswith("call_") and one["type"] == "function" for one in found)
    parts.append(calling.flush(bool(calls)))
    return "".join(parts), calls, parts


@pytest.mark.parametrize("size", [1, 2, 3, 7, 1000])
@pytest.mark.parametrize(
    ("text", "said", "names"),
    [
        ("Some text.", "Some text.", ""),
        ("a < b\n\n<tool", "a < b\n\n<tool", ""),
        (" \n", " \n", ""),
        (CALL, "", "f"),
        (f"I ask.\n{CALL}\n{OTHER}\n", "I ask.", "fg"),
        (f"{CALL}\nDone.", "\nDone.", "f"),
        ("<tool_call>{no}</tool_call>", "<tool_call>{no}</tool_call>", ""),
        (f"<tool_call>[1]</tool_call> {OTHER}", "<tool_call>[1]</tool_call>", "g"),
        (f"{OTHER}<tool_call>open", "<tool_call>open", "g"),
    ],
)
def test_pieces(text: str, said: str, names: str, size: int):
    found, calls, _ = split(text, size)
    assert found == said and "".join(name for name, _ in calls) == names


def test_text_comes_as_soon_as_it_is_certain():
    calling = ToolCalls()
    assert calling.push("I ask.\n<tool") == ("I ask.", [])
    assert calling.push("box") == ("\n<toolbox", [])
    assert calling.push(" Now <tool_call>{") == (" Now", [])
    assert calling.push("}</tool_call>!") == (" <tool_call>{}</tool_call>!", [])


def test_reading():
    function = read('{"name": "f", "arguments": {"x": "ä"}}')["function"]
    assert function["arguments"] == '{"x": "ä"}'
    assert json.loads(read('{"name": "f", "arguments": "{}"}')["function"]["arguments"]) == {}
    for wrong in ("", "x", "[]", '{"arguments": {}}', '{"name": "f", "arguments": 3}', "[" * 10**5):
        assert read(wrong) is None
