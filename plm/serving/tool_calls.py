"""Calls of functions that a model writes into its answer, told apart from what it says."""

import json
import secrets
from typing import Any

OPEN, CLOSE = "<tool_call>", "</tool_call>"


class ToolCalls:
    """Splits a growing answer into text and calls.

    A call that is not closed, or is no JSON object with name and arguments, stays text.
    """

    def __init__(self) -> None:
        self._held = ""

    def push(self, text: str) -> tuple[str, list[dict[str, Any]]]:
        """Take more of the answer; the text and the calls that became certain."""
        self._held += text
        said, calls = "", []
        while True:
            start = self._held.find(OPEN)
            if start < 0:
                keep = _undecided(self._held)
                said += self._held[: len(self._held) - keep]
                self._held = self._held[len(self._held) - keep :]
                return said, calls
            stop = self._held.find(CLOSE, start)
            if stop < 0:
                before = self._held[:start].rstrip()
                self._held = self._held[len(before) :]
                return said + before, calls
            stop += len(CLOSE)
            call = read(self._held[start + len(OPEN) : stop - len(CLOSE)])
            if call is None:
                said += self._held[:stop]
            else:
                # The line breaks around a call belong to how it is written.
                said += self._held[:start].rstrip()
                calls.append(call)
            self._held = self._held[stop:]

    def flush(self, called: bool) -> str:
        """The answer has ended: the rest of its text.

        Args:
            called: there were calls, so that white space behind them is no text.
        """
        rest, self._held = self._held, ""
        return rest if rest.strip() or not called else ""


def read(text: str) -> dict[str, Any] | None:
    """A call in the form that a message of the API has it; None: it is none."""
    try:
        found = json.loads(text)
    except (ValueError, RecursionError):
        return None
    if not isinstance(found, dict) or not isinstance(found.get("name"), str):
        return None
    arguments = found.get("arguments", {})
    if isinstance(arguments, dict):
        arguments = json.dumps(arguments, ensure_ascii=False)
    if not isinstance(arguments, str):
        return None
    function = {"name": found["name"], "arguments": arguments}
    return {"id": f"call_{secrets.token_hex(12)}", "type": "function", "function": function}


def _undecided(text: str) -> int:
    """Characters at the end that may belong to a call: white space, then its first letters."""
    for size in range(min(len(OPEN) - 1, len(text)), 0, -1):
        if OPEN.startswith(text[-size:]):
            before = text[: len(text) - size]
            return len(text) - len(before.rstrip())
    return len(text) - len(text.rstrip())
