"""Tiles of the latent's norm; BLOCK_SIZE is elements of latents a program, in whole rows."""

from plm.kernels.tiles import Kernel, Tile

MOST_COLUMNS = 2048
_MODULE = "plm.kernels.latent_norm_triton"
_CASES = {
    "1_8b": {"C": 512, "R": 64, "WIDTH": 512, "WIDTH_R": 64, "TURN": True},
    "1_8b copied": {"C": 512, "R": 64, "WIDTH": 512, "WIDTH_R": 64, "TURN": False},
    "135m": {"C": 256, "R": 64, "WIDTH": 256, "WIDTH_R": 64, "TURN": True},
    "micro": {"C": 128, "R": 32, "WIDTH": 128, "WIDTH_R": 32, "TURN": True},
}
_ROWS = {
    "kv_a": "*bf16",
    "weight": "*fp32",
    "cos": "*fp32",
    "sin": "*fp32",
    "inverse": "*fp32",
    "rows": "i32",
}
_CUDA = ("sm_80", "sm_89", "sm_90", "sm_100", "sm_120")


def _forward_tiles(*found: tuple[int, int]) -> tuple[Tile, ...]:
    return tuple(Tile({"BLOCK_SIZE": size}, warps, 1) for warps, size in found)


def _backward_tiles(*found: tuple[int, int, int]) -> tuple[Tile, ...]:
    return tuple(
        Tile({"BLOCK_SIZE": size, "STAGES": stages}, warps, 1) for warps, size, stages in found
    )


FORWARD = Kernel(
    "latent_norm",
    f"{_MODULE}:forward",
    {**_ROWS, "latent": "*bf16", "k_rope": "*bf16", "eps": "fp32"},
    _CASES,
    {
        **dict.fromkeys(_CUDA, _forward_tiles((4, 4096), (4, 2048), (8, 8192))),
        "gfx942": _forward_tiles((4, 4096), (2, 2048), (4, 2048)),
    },
    Tile({"BLOCK_SIZE": 256}),
    key=("C", "R", "TURN"),
    matrix=False,
    odd=("rows",),
)
BACKWARD = Kernel(
    "latent_norm_backward",
    f"{_MODULE}:backward",
    {
        **_ROWS,
        "grad_latent": "*bf16",
        "grad_rope": "*bf16",
        "grad_kv": "*bf16",
        "partial": "*fp32",
    },
    _CASES,
    {
        **dict.fromkeys(_CUDA, _backward_tiles((8, 4096, 2), (8, 8192, 1), (16, 8192, 2))),
        "gfx942": _backward_tiles((8, 8192, 1), (8, 4096, 1), (4, 4096, 1)),
    },
    Tile({"BLOCK_SIZE": 256, "STAGES": 1}),
    key=("C", "R", "TURN"),
    matrix=False,
    odd=("rows",),
)
KERNELS = (FORWARD, BACKWARD)
