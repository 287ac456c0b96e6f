"""Tiles of the attention over cached latents: positions a step; splits a step of the sum."""

from plm.kernels.tiles import Kernel, Tile

MOST_RANK, MOST_ROPE = 512, 128
# Heads of a program: the least that a matrix unit takes as columns, filled up with zeros.
HEADS = 16
MOST_SPLITS = 128
_MODULE = "plm.kernels.mla_decode_triton"
_SHAPES = {
    "1_8b": {"H": 16, "C": 512, "WIDTH": 512},
    "135m": {"H": 5, "C": 256, "WIDTH": 256},
    "micro": {"H": 6, "C": 128, "WIDTH": 128},
}
_ROPE = {"1_8b": 64, "135m": 64, "micro": 32}


def _tiles(*found: tuple[int, int, int]) -> tuple[Tile, ...]:
    return tuple(Tile({"BLOCK_S": size}, warps, stages) for size, warps, stages in found)


def _sums(*found: tuple[int, int]) -> tuple[Tile, ...]:
    return tuple(Tile({"BLOCK_P": size}, warps, 1) for size, warps in found)


SPLIT = Kernel(
    "mla_decode",
    f"{_MODULE}:split",
    {
        "q_latent": "*bf16",
        "q_rope": "*bf16",
        "latent": "*bf16",
        "k_rope": "*bf16",
        "lengths": "*i32",
        "partial": "*fp32",
        "log_sums": "*fp32",
        "positions": "i32",
        "splits": "i32",
        "factor": "fp32",
        "latent_row": "i64",
        "latent_position": "i32",
        "rope_row": "i64",
        "rope_position": "i32",
    },
    {
        name: {**shape, "R": _ROPE[name], "WIDTH_R": _ROPE[name], "HEADS": HEADS}
        for name, shape in _SHAPES.items()
    },
    {
        "sm_80": _tiles((64, 8, 2), (32, 4, 2), (32, 4, 3)),
        "sm_89": _tiles((32, 4, 2), (32, 8, 2), (16, 4, 3)),
        "sm_90": _tiles((64, 4, 2), (64, 8, 2), (32, 4, 3)),
        "sm_100": _tiles((32, 4, 2), (32, 8, 2), (64, 8, 1)),
        "sm_120": _tiles((32, 4, 2), (32, 8, 2), (16, 4, 3)),
        "gfx942": _tiles((32, 8, 1), (32, 4, 1), (16, 4, 1)),
    },
    Tile({"BLOCK_S": 16}),
    key=("H", "C", "R"),
    odd=("positions", "splits"),
)
COMBINE = Kernel(
    "mla_decode_combine",
    f"{_MODULE}:combine",
    {"partial": "*fp32", "log_sums": "*fp32", "out": "*bf16", "splits": "i32"},
    {name: {**shape, "MOST": MOST_SPLITS} for name, shape in _SHAPES.items()},
    dict.fromkeys(
        ("sm_80", "sm_89", "sm_90", "sm_100", "sm_120", "gfx942"), _sums((8, 4), (4, 2), (16, 8))
    ),
    Tile({"BLOCK_P": 2}),
    key=("H", "C"),
    matrix=False,
    odd=("splits",),
)
KERNELS = (SPLIT, COMBINE)
