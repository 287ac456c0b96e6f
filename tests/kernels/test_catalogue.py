import sys
from dataclasses import replace
from pathlib import Path

import pytest

from plm.kernels import catalogue
from plm.kernels.catalogue import Row, kernels, probes, rows, source_of
from plm.kernels.tiles import GATED, SHARED_KIB, Kernel, Tile

TEXT = '''
import triton
SCALE = 2

@triton.jit
def inner(x):
    return x * SCALE

@triton.jit
def outer(x):
    """Words."""
    # A comment.
    return inner(x)

@triton.jit
def other(x):
    return x
'''


def source(folder: Path, monkeypatch, text: str, name: str) -> str:
    package = f"cat_{name}"
    (folder / f"{package}.py").write_text(text)
    monkeypatch.syspath_prepend(str(folder))
    return source_of(f"{package}:outer")


def test_the_source_holds_what_is_called_and_nothing_else(tmp_path, monkeypatch):
    plain = source(tmp_path, monkeypatch, TEXT, "plain")
    changed = {
        "inner": TEXT.replace("x * SCALE", "x + SCALE"),
        "constant": TEXT.replace("SCALE = 2", "SCALE = 3"),
        "comment": TEXT.replace("# A comment.", "# Another.").replace("Words", "Other words"),
        "unrelated": TEXT.replace("return x\n", "return -x\n"),
    }
    same = {n: source(tmp_path, monkeypatch, t, n) == plain for n, t in changed.items()}
    assert same == {"inner": False, "constant": False, "comment": True, "unrelated": True}
    assert "cat_plain" in {Path(p).stem for p in map(str, tmp_path.iterdir())}
    assert "cat_plain" not in sys.modules


KERNEL = Kernel(
    "k", "plm.kernels.tiles:launch", {"x": "*bf16"}, {"a": {"N": 1}},
    {"sm_80": (Tile({"BLOCK": 16}),)}, Tile({"BLOCK": 16}),
)  # fmt: skip


@pytest.mark.parametrize(
    "change",
    [
        {"arguments": {"x": "*fp16"}},
        {"cases": {"a": {"N": 2}}},
        {"odd": ("x",)},
        {"source": "plm.kernels.tiles:override"},
    ],
)
def test_a_key_changes_with_the_kernel(change: dict):
    def key(kernel: Kernel, tile: Tile = KERNEL.trial) -> str:
        return Row(kernel, "a", "sm_80", tile).key()

    assert key(replace(KERNEL, **change)) != key(KERNEL)
    assert key(KERNEL, Tile({"BLOCK": 32})) != key(KERNEL)
    assert key(KERNEL, Tile({"BLOCK": 16}, 8)) != key(KERNEL)


def test_the_catalogue_is_whole():
    found = kernels()
    names = [kernel.name for kernel in found]
    assert len(set(names)) == len(names)
    lines = [row.name for row in rows()]
    assert len(set(lines)) == len(lines)
    assert {row.name for row in probes()} <= set(lines)
    modules = {path.stem for path in Path(catalogue.__file__).parent.glob("*_configs.py")}
    assert set(catalogue.MODULES) == modules


@pytest.mark.parametrize("kernel", kernels(), ids=lambda kernel: kernel.name)
def test_a_kernel_is_described_whole(kernel: Kernel):
    assert set(GATED) <= set(kernel.tiles) <= set(SHARED_KIB)
    blocks = set(kernel.trial.blocks)
    assert all(set(t.blocks) == blocks for tiles in kernel.tiles.values() for t in tiles)
    names = set(kernel.function().arg_names)
    constants = {frozenset(case) for case in kernel.cases.values()}
    assert len(constants) == 1
    assert names == set(kernel.arguments) | blocks | set(next(iter(constants)))
    assert set(kernel.key) | set(kernel.odd) | set(kernel.reset) <= names
