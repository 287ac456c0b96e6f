"""All Triton kernels, and the key under which the record of what was compiled knows each."""

import ast
import hashlib
from collections.abc import Iterator
from dataclasses import dataclass
from functools import lru_cache
from importlib import import_module
from importlib.util import find_spec
from pathlib import Path

from plm.kernels.tiles import GATED, Kernel, Tile

# Modules whose KERNELS are compiled and recorded, in the order of the table.
MODULES = (
    "linear_rows_configs",
    "relu2_mlp_configs",
    "mla_attention_configs",
    "mla_decode_configs",
    "rms_norm_configs",
    "latent_norm_configs",
    "rope_configs",
    "relu2_configs",
)


@dataclass(frozen=True)
class Row:
    """One line of the record: a kernel with one set of constants and tile on one architecture."""

    kernel: Kernel
    case: str
    arch: str
    tile: Tile

    @property
    def name(self) -> tuple[str, str, str, str]:
        """What the record calls it."""
        return self.kernel.name, self.case, self.arch, str(self.tile)

    def key(self) -> str:
        """Changes with the function, what it calls, its arguments, constants and tile."""
        kernel = self.kernel
        parts = [
            source_of(kernel.source),
            sorted(kernel.arguments.items()),
            sorted(kernel.cases[self.case].items()),
            sorted(self.tile.blocks.items()),
            sorted(self.tile.options().items()),
            sorted(kernel.odd),
        ]
        if self.arch.startswith("gfx"):
            parts.append("with small tensors")
        return hashlib.sha256(repr(parts).encode()).hexdigest()[:16]


def kernels() -> list[Kernel]:
    """Every kernel, in the order of the table."""
    return [
        kernel
        for module in MODULES
        for kernel in import_module(f"plm.kernels.{module}").KERNELS
    ]  # fmt: skip


def rows(found: list[Kernel] | None = None) -> Iterator[Row]:
    """Every line of the record; of these kernels alone, where some are given."""
    for kernel in kernels() if found is None else found:
        for arch, tiles in kernel.tiles.items():
            for tile in tiles:
                for case in kernel.cases:
                    yield Row(kernel, case, arch, tile)


def probes(found: list[Kernel] | None = None) -> Iterator[Row]:
    """One line for each kernel and gated architecture: the first tile with the first case."""
    for kernel in kernels() if found is None else found:
        for arch in GATED:
            yield Row(kernel, next(iter(kernel.cases)), arch, kernel.tiles[arch][0])


@lru_cache(maxsize=256)
def source_of(source: str) -> str:
    """Syntax of a function and of all functions of ours that it calls, without comments.

    Args:
        source: "package.module:function".
    """
    module, _, name = source.partition(":")
    waiting, seen, texts = [(module, name)], set(), []
    while waiting:
        place = waiting.pop()
        if place in seen:
            continue
        seen.add(place)
        tree, elsewhere = _module(place[0])
        node = tree.get(place[1])
        if node is None:
            continue
        texts.append(ast.dump(node))
        for inner in ast.walk(node):
            if isinstance(inner, ast.Name):
                waiting.append(elsewhere.get(inner.id, (place[0], inner.id)))
    return "\n".join(sorted(texts))


@lru_cache(maxsize=64)
def _module(name: str) -> tuple[dict[str, ast.AST], dict[str, tuple[str, str]]]:
    """Functions and constants of a module by name, and where its names from ours come from."""
    spec = find_spec(name)
    if spec is None or spec.origin is None:
        return {}, {}
    package = name.partition(".")[0]
    defined: dict[str, ast.AST] = {}
    elsewhere: dict[str, tuple[str, str]] = {}
    for node in ast.parse(Path(spec.origin).read_text("utf-8")).body:
        if isinstance(node, ast.FunctionDef):
            # What the docstring says changes nothing.
            body = node.body[1:] if ast.get_docstring(node) else node.body
            defined[node.name] = ast.Module([*node.decorator_list, node.args, *body], [])
        elif isinstance(node, ast.Assign) and isinstance(node.targets[0], ast.Name):
            defined[node.targets[0].id] = node.value
        elif isinstance(node, ast.ImportFrom) and (node.module or "").startswith(package):
            for alias in node.names:
                elsewhere[alias.asname or alias.name] = (node.module or "", alias.name)
    return defined, elsewhere
