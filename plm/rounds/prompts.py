"""Prompts of one's own: questions without an answer to compare with."""

from typing import Any

from plm.errors import ConfigError, DataError
from plm.evaluation.generated import Item
from plm.evaluation.rows import read_rows


class Prompts:
    """Questions for a round; where there is no `grade`, a reward must do without one.

    Attributes:
        items: each a question.
    """

    def __init__(self, items: list[Item]) -> None:
        self.items = items


def rows(path: str | None, *, field: str = "prompt") -> Prompts:
    """The questions of a file.

    Args:
        path: a .jsonl or .jsonl.gz.
        field: of a row, text.
    Raises:
        ConfigError: no path.
        DataError: no such file or field, or a question that is empty or no UTF-8.
    """
    if not path:
        raise ConfigError("prompts.path is missing: a .jsonl with your questions")
    found = read_rows(path, "train", (field,), hub="")
    items = []
    for number, row in enumerate(found, start=1):
        question: Any = row[field].strip()
        if not question:
            raise DataError(f"{path} row {number}: {field} is empty")
        if not question.isascii() and question != question.encode("utf-8", "ignore").decode():
            raise DataError(f"{path} row {number}: {field} holds half a character (a surrogate)")
        items.append(Item(f"row {number}", question, question, ""))
    return Prompts(items)
