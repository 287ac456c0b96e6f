"""Which tile a Triton kernel runs with on which GPU, and the launch.

A kernel is described once, without importing Triton, by `Kernel`: where its function is, the types
of its arguments, and for each architecture an explicit list of tiles, every one of which has been
compiled ahead of time without a spill (docs/kernels.md). On a GPU Triton's autotuner chooses among
them at the first launch that fills it, and keeps its choice in its cache folder; smaller ones take
the first. The interpreter takes `trial`.
"""

import math
import os
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from functools import lru_cache
from importlib import import_module
from typing import Any

import torch

# Shared memory of a block that a kernel may use, in KiB.
SHARED_KIB = {
    "sm_80": 163, "sm_89": 99, "sm_90": 227, "sm_100": 227, "sm_120": 99, "gfx942": 64
}  # fmt: skip
# Relatives that run the tiles of another: as much shared memory or more, the same instructions.
_TABLE_OF = {"sm_86": "sm_89", "sm_87": "sm_80", "sm_103": "sm_100", "sm_121": "sm_120"}
# Without a spill on these, or a test fails; the others are in the table for information.
GATED = ("sm_80", "sm_90", "sm_100", "gfx942")


@dataclass(frozen=True)
class Tile:
    """One way to cut a kernel's work.

    Attributes:
        blocks: the kernel's BLOCK_… constants.
        num_warps: of 32 threads; of 64 on AMD.
        num_stages: of the software pipeline.
        maxnreg: registers a thread may have, where the assembler chooses badly by itself.
    """

    blocks: Mapping[str, int]
    num_warps: int = 4
    num_stages: int = 2
    maxnreg: int | None = None

    def options(self) -> dict[str, int]:
        """What Triton's compiler is given beside the constants."""
        found = {"num_warps": self.num_warps, "num_stages": self.num_stages}
        return found if self.maxnreg is None else {**found, "maxnreg": self.maxnreg}

    def __str__(self) -> str:
        blocks = " ".join(f"{k.removeprefix('BLOCK_')}{v}" for k, v in self.blocks.items())
        limit = f" ≤{self.maxnreg}r" if self.maxnreg else ""
        return f"{blocks} {self.num_warps}w {self.num_stages}s{limit}".strip()


@dataclass(frozen=True)
class Kernel:
    """One @triton.jit function and all that is decided about it.

    Attributes:
        name: unique, as docs/kernels.md calls it.
        source: "package.module:function".
        arguments: Triton's type of every argument that is not a constant, by name: "*bf16",
            "*fp32", "*i32", "*i64", "i32", "fp32".
        cases: constants that are not blocks, by name of the shape they belong to ("1_8b", "135m").
        tiles: by architecture, best guess first.
        trial: blocks for Triton's interpreter, small so that little data makes many programs.
        key: names of arguments whose change has the autotuner choose anew, beside all constants.
        matrix: whether it must use the matrix unit (a row kernel must load 128 bits instead).
        odd: integer arguments that need not be multiples of 16.
        reset: names of arguments that are changed in place: restored while tiles are tried.
    """

    name: str
    source: str
    arguments: Mapping[str, str]
    cases: Mapping[str, Mapping[str, Any]]
    tiles: Mapping[str, tuple[Tile, ...]]
    trial: Tile
    key: tuple[str, ...] = ()
    matrix: bool = True
    odd: tuple[str, ...] = ()
    reset: tuple[str, ...] = ()

    def function(self) -> Any:
        """The function, imported; Triton's interpreter where TRITON_INTERPRET is set."""
        module, _, name = self.source.partition(":")
        return getattr(import_module(module), name)


_overrides: dict[str, Tile] = {}


@contextmanager
def override(**tiles: Tile) -> Iterator[None]:
    """Within it, the named kernels run with these tiles: for tests and measurements."""
    before = dict(_overrides)
    _overrides.update(tiles)
    try:
        yield
    finally:
        _overrides.clear()
        _overrides.update(before)


def interpreting() -> bool:
    """Whether Triton runs kernels on CPU tensors, in Python."""
    return os.environ.get("TRITON_INTERPRET", "0").lower() in ("1", "true", "on", "yes", "y")


@lru_cache(maxsize=16)
def architecture(index: int) -> str:
    """Name of a GPU's architecture: sm_90, gfx942."""
    if torch.version.hip:
        return str(torch.cuda.get_device_properties(index).gcnArchName).split(":")[0]
    major, minor = torch.cuda.get_device_capability(index)
    return f"sm_{major}{minor}"


def table_of(arch: str) -> str | None:
    """The architecture whose tiles this one runs, or None."""
    return arch if arch in SHARED_KIB else _TABLE_OF.get(arch)


def _tuned(kernel: Kernel, arch: str, index: int) -> Any:
    """Triton's autotuner over a kernel's tiles, one for each GPU."""
    import triton

    name = kernel.name, arch, index
    if name not in _tuners:
        configs = [
            triton.Config(dict(tile.blocks), **_options(tile, arch)) for tile in kernel.tiles[arch]
        ]
        # All constants: in its cache a function's choices are told apart by these values alone.
        key = sorted({*kernel.key, *next(iter(kernel.cases.values()))})
        reset = list(kernel.reset)
        tuner = triton.autotune(configs=configs, key=key, cache_results=True, restore_value=reset)
        _tuners[name] = tuner(kernel.function())
    return _tuners[name]


_tuners: dict[tuple[str, str, int], Any] = {}


def _options(tile: Tile, arch: str) -> dict[str, int]:
    found = tile.options()
    if arch.startswith("gfx"):
        found.pop("maxnreg", None)
    return found


@lru_cache(maxsize=16)
def processors(index: int) -> int:
    """Multiprocessors of a GPU."""
    return torch.cuda.get_device_properties(index).multi_processor_count


def _tunes(programs: int, index: int) -> bool:
    """Whether a launch fills the GPU, so that its time says something about tiles.

    Under PLM_AUTOTUNE=0 none does, and each run takes the first tile of the table: the order of
    sums, and with it the last bits, are then the same in every run.
    """
    return os.environ.get("PLM_AUTOTUNE", "1") != "0" and programs >= 2 * processors(index)


def launch(
    kernel: Kernel,
    grid: Callable[[Mapping[str, Any]], tuple[int, ...]],
    arguments: Mapping[str, Any],
    constants: Mapping[str, Any],
) -> None:
    """Run a kernel over all programs of a grid.

    Args:
        kernel: which.
        grid: from the constants, blocks included, to the number of programs an axis.
        arguments: tensors and numbers by name.
        constants: constexprs by name that are not blocks.
    """
    tile = _overrides.get(kernel.name)
    if interpreting():
        _run(kernel, tile or kernel.trial, grid, arguments, constants, {})
        return
    device = next(a for a in arguments.values() if isinstance(a, torch.Tensor)).device
    arch = table_of(architecture(device.index)) or ""
    with torch.cuda.device(device):
        if tile is None:
            tile = kernel.tiles[arch][0]
            if _tunes(math.prod(grid({**constants, **tile.blocks})), device.index):
                _tuned(kernel, arch, device.index)[grid](**arguments, **constants)
                return
        _run(kernel, tile, grid, arguments, constants, _options(tile, arch))


def _run(
    kernel: Kernel,
    tile: Tile,
    grid: Callable[[Mapping[str, Any]], tuple[int, ...]],
    arguments: Mapping[str, Any],
    constants: Mapping[str, Any],
    options: Mapping[str, int],
) -> None:
    shape = grid({**constants, **tile.blocks})
    if all(shape):
        kernel.function()[shape](**arguments, **constants, **tile.blocks, **options)
