"""Tiles of the root-mean-square norm; BLOCK_SIZE is elements a program, in whole rows."""

from plm.kernels.tiles import Kernel, Tile

# A last dimension above this has no place in a program's registers.
MOST_COLUMNS = 8192
_MODULE = "plm.kernels.rms_norm_triton"
_FLAT = {"1_8b": 2048, "135m": 640, "micro": 384, "widest": MOST_COLUMNS}


def _cases(**flags: bool) -> dict[str, dict]:
    return {
        name: {"D": size, "WIDTH": 1 << (size - 1).bit_length(), **flags}
        for name, size in _FLAT.items()
    }


def _forward_tiles(*warps_and_size: tuple[int, int]) -> tuple[Tile, ...]:
    return tuple(Tile({"BLOCK_SIZE": size}, warps, 1) for warps, size in warps_and_size)


def _backward_tiles(*found: tuple[int, int, int]) -> tuple[Tile, ...]:
    return tuple(
        Tile({"BLOCK_SIZE": size, "STAGES": stages}, warps, 1) for warps, size, stages in found
    )


_NVIDIA = _forward_tiles((4, 4096), (4, 2048), (8, 8192))
_FORWARD = {
    **dict.fromkeys(("sm_80", "sm_89", "sm_90", "sm_100", "sm_120"), _NVIDIA),
    # 64 threads a warp.
    "gfx942": _forward_tiles((4, 4096), (2, 2048), (8, 8192)),
}
_WALK = _backward_tiles((8, 4096, 2), (16, 8192, 2), (8, 8192, 1))
_BACKWARD = {
    **dict.fromkeys(("sm_80", "sm_89", "sm_90", "sm_100", "sm_120"), _WALK),
    "gfx942": _backward_tiles((8, 8192, 1), (8, 4096, 1), (16, 8192, 1)),
}
# What bf16-mixed hands over: activations in bf16, weights in fp32.
_ROWS = {"x": "*bf16", "weight": "*fp32", "inverse": "*fp32", "rows": "i32"}
_FORWARD_ARGUMENTS = {
    **_ROWS,
    "residual": "*bf16",
    "out": "*bf16",
    "summed": "*bf16",
    "eps": "fp32",
}
_BACKWARD_ARGUMENTS = {
    **_ROWS,
    "grad": "*bf16",
    "grad_summed": "*bf16",
    "grad_x": "*bf16",
    "grad_residual": "*bf16",
    "partial": "*fp32",
}

FORWARD = Kernel(
    "rms_norm",
    f"{_MODULE}:forward",
    _FORWARD_ARGUMENTS,
    _cases(ADD=False),
    _FORWARD,
    Tile({"BLOCK_SIZE": 256}),
    key=("D",),
    matrix=False,
    odd=("rows",),
)
ADD_FORWARD = Kernel(
    "add_rms_norm",
    f"{_MODULE}:forward",
    _FORWARD_ARGUMENTS,
    _cases(ADD=True),
    _FORWARD,
    Tile({"BLOCK_SIZE": 256}),
    key=("D",),
    matrix=False,
    odd=("rows",),
)
BACKWARD = Kernel(
    "rms_norm_backward",
    f"{_MODULE}:backward",
    _BACKWARD_ARGUMENTS,
    _cases(SUMMED=False, TWICE=False),
    _BACKWARD,
    Tile({"BLOCK_SIZE": 256, "STAGES": 1}),
    key=("D",),
    matrix=False,
    odd=("rows",),
)
ADD_BACKWARD = Kernel(
    "add_rms_norm_backward",
    f"{_MODULE}:backward",
    _BACKWARD_ARGUMENTS,
    _cases(SUMMED=True, TWICE=False),
    _BACKWARD,
    Tile({"BLOCK_SIZE": 256, "STAGES": 1}),
    key=("D", "SUMMED", "TWICE"),
    matrix=False,
    odd=("rows",),
)
KERNELS = (FORWARD, ADD_FORWARD, BACKWARD, ADD_BACKWARD)
