"""Tiles of the rotary embedding: tokens and heads of a program."""

from plm.kernels.tiles import Kernel, Tile

MOST_COLUMNS = 256


def _tiles(*found: tuple[int, int, int]) -> tuple[Tile, ...]:
    return tuple(Tile({"BLOCK_T": t, "BLOCK_H": h}, warps, 1) for t, h, warps in found)


_NVIDIA = _tiles((32, 4, 4), (64, 2, 4), (32, 8, 4))
ROPE = Kernel(
    "rope",
    "plm.kernels.rope_triton:rope",
    {
        "x": "*bf16",
        "cos": "*fp32",
        "sin": "*fp32",
        "out": "*bf16",
        "tokens": "i32",
        "stride_token": "i32",
        "stride_head": "i32",
    },
    {
        "1_8b": {"H": 16, "R": 64, "WIDTH": 64, "INVERSE": False},
        "1_8b back": {"H": 16, "R": 64, "WIDTH": 64, "INVERSE": True},
        "135m": {"H": 5, "R": 64, "WIDTH": 64, "INVERSE": False},
        "micro": {"H": 6, "R": 32, "WIDTH": 32, "INVERSE": False},
        "key": {"H": 1, "R": 64, "WIDTH": 64, "INVERSE": False},
    },
    {
        **dict.fromkeys(("sm_80", "sm_89", "sm_90", "sm_100", "sm_120"), _NVIDIA),
        "gfx942": _tiles((64, 4, 4), (64, 2, 4), (32, 8, 2)),
    },
    Tile({"BLOCK_T": 16, "BLOCK_H": 2}),
    key=("H", "R"),
    matrix=False,
    odd=("tokens",),
)
KERNELS = (ROPE,)
