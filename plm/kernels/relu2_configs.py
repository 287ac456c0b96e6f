"""Tiles of the squared ReLU: elements a program."""

from plm.kernels.tiles import Kernel, Tile

_CUDA = ("sm_80", "sm_89", "sm_90", "sm_100", "sm_120")


def _tiles(*found: tuple[int, int]) -> tuple[Tile, ...]:
    return tuple(Tile({"BLOCK_SIZE": size}, warps, 1) for warps, size in found)


_TILES = {
    **dict.fromkeys(_CUDA, _tiles((4, 2048), (4, 1024), (8, 4096))),
    "gfx942": _tiles((4, 2048), (4, 4096), (8, 4096)),
}
# More elements than an int32 counts are possible.
_COUNT = {"count": "i64"}

FORWARD = Kernel(
    "relu2",
    "plm.kernels.relu2_triton:forward",
    {"x": "*bf16", "out": "*bf16", **_COUNT},
    {"any": {}},
    _TILES,
    Tile({"BLOCK_SIZE": 64}),
    matrix=False,
)
BACKWARD = Kernel(
    "relu2_backward",
    "plm.kernels.relu2_triton:backward",
    {"grad": "*bf16", "kept": "*bf16", "grad_x": "*bf16", **_COUNT},
    {"from the output": {"SQUARED": True}, "from x": {"SQUARED": False}},
    _TILES,
    Tile({"BLOCK_SIZE": 64}),
    key=("SQUARED",),
    matrix=False,
)
KERNELS = (FORWARD, BACKWARD)
