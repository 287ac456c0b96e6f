"""Instruction data from the documented functions of installed packages, in two directions."""

import ast
import copy
from collections.abc import Iterator
from functools import partial
from pathlib import Path
from typing import Any

from plm.data.conversations import Conversation
from plm.data.documents import Document, Origin
from plm.data.sources.installed import code_files
from plm.data.tally import Tally
from plm.errors import ConfigError

DIRECTIONS = ("explain", "write")


def docstrings(
    distributions: list[str],
    *,
    direction: str,
    only: dict[str, list[str]] | None = None,
    max_file_bytes: int = 100_000,
    least: int = 20,
    most: int = 400,
) -> Origin:
    """Conversations on functions that say what they do.

    Args:
        distributions: names; "python" is the standard library.
        direction: explain asks what a function does, from its signature, and is answered by the
            first paragraph of its docstring; write asks for the function, from its name and that
            paragraph, and is answered by its code.
        only: for a distribution, the folders or files to take of it.
        max_file_bytes: longer files are tables or generated.
        least, most: characters of a paragraph that is taken.
    Raises:
        ConfigError: no such direction.
    """
    if direction not in DIRECTIONS:
        raise ConfigError(f"docstrings: direction={direction}: one of {', '.join(DIRECTIONS)}")
    items, facts = code_files(distributions, only or {})
    read = partial(
        _read, direction=direction, max_file_bytes=max_file_bytes, least=least, most=most
    )
    return Origin(items, read, lambda item: item.size, {**facts, "conversations": True})


def _read(
    item: Any, tally: Tally, *, direction: str, max_file_bytes: int, least: int, most: int
) -> Iterator[Document]:
    if item.size > max_file_bytes:
        tally.drop("file too long", item.name)
        return
    try:
        tree = ast.parse(Path(item.path).read_bytes())
    except (SyntaxError, ValueError):
        tally.drop("not parsable", item.name)
        return
    module = item.name.removesuffix(".py").removesuffix("/__init__").replace("/", ".")
    for node, owner in _functions(tree, module):
        said = (ast.get_docstring(node) or "").strip().split("\n\n")[0]
        said = " ".join(said.split())
        if not least <= len(said) <= most:
            continue
        asked, answer = (
            _explain(node, owner, said) if direction == "explain" else _write(node, said)
        )
        if not answer:
            tally.drop("no code besides the docstring", f"{owner}.{node.name}")
            continue
        messages = [{"role": "user", "content": asked}, {"role": "assistant", "content": answer}]
        name = f"{item.name}/{owner}.{node.name}:{node.lineno}"
        yield Document(Conversation(messages).to_text(), name, f"{owner}.{node.name}")


_Function = ast.FunctionDef | ast.AsyncFunctionDef


def _functions(node: ast.AST, owner: str) -> Iterator[tuple[_Function, str]]:
    """Each function with the name of what it lies in."""
    for child in ast.iter_child_nodes(node):
        if isinstance(child, _Function):
            yield child, owner
        elif isinstance(child, ast.ClassDef):
            yield from _functions(child, f"{owner}.{child.name}")


def _explain(node: _Function, owner: str, said: str) -> tuple[str, str]:
    signature = f"{node.name}({ast.unparse(node.args)})"
    return f"What does the function {signature} of {owner} do?", said


def _write(node: _Function, said: str) -> tuple[str, str]:
    bare = copy.deepcopy(node)
    bare.body, bare.decorator_list = bare.body[1:], []
    asked = f"Write the Python function {node.name}({ast.unparse(node.args)}). {said}"
    return asked, ast.unparse(bare) if bare.body else ""
