"""Special tokens in the text of messages, where they are text and must stay it."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Mapping
from typing import TYPE_CHECKING, Any

from plm.data.tokenizer import special_tokens

if TYPE_CHECKING:
    from tokenizers import Tokenizer


class Special:
    """A tokenizer's special tokens, and what reads like one.

    Args:
        tokenizer: looked at once.

    Attributes:
        ids: by token.
        pattern: matches any of them, the longest first, in one group.
    """

    def __init__(self, tokenizer: Tokenizer) -> None:
        names = special_tokens(tokenizer)
        self.ids: dict[str, int] = {name: tokenizer.token_to_id(name) for name in names}
        longest_first = sorted(names, key=len, reverse=True)
        self.pattern = re.compile(f"({'|'.join(map(re.escape, longest_first)) or '(?!)'})")

    def first(self, said: Any) -> str | None:
        """The first special token that stands in some text of a tree of lists and mappings."""
        found = (self.pattern.search(text) for text in _strings(said))
        return next((match[0] for match in found if match), None)

    def ending(self, text: str) -> str | None:
        """The special token that a text ends with, white space apart."""
        text = text.rstrip()
        return next((name for name in self.ids if text.endswith(name)), None)

    def broken(self, said: Any) -> tuple[Any, str]:
        """The tree with a mark in the midst of whatever reads like a special token.

        Returns:
            The tree; and the mark, a character that no text of it has, or "" where none is needed.
        """
        if self.first(said) is None:
            return said, ""
        taken = set().union(*map(set, _strings(said)))
        # For private use in Unicode's last plane.
        mark = next(c for c in map(chr, range(0x100000, 0x10FFFE)) if c not in taken)
        return _mapped(said, lambda text: self._broken(text, mark)), mark

    def _broken(self, text: str, mark: str) -> str:
        while found := self.pattern.search(text):
            place = found.start() + 1
            text = text[:place] + mark + text[place:]
        return text


def _strings(value: Any) -> Iterator[str]:
    """Every text in a tree, keys included."""
    if isinstance(value, str):
        yield value
    elif isinstance(value, Mapping):
        for key, item in value.items():
            yield from _strings(key)
            yield from _strings(item)
    elif isinstance(value, list | tuple):
        for item in value:
            yield from _strings(item)


def _mapped(value: Any, change: Callable[[str], str]) -> Any:
    """The tree with every text changed."""
    if isinstance(value, str):
        return change(value)
    if isinstance(value, Mapping):
        return {_mapped(key, change): _mapped(item, change) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [_mapped(item, change) for item in value]
    return value
