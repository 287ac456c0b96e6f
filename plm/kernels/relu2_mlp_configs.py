"""The kernels of the feed-forward with a squared ReLU, and the tiles they are compiled with."""

from typing import Any

from plm.kernels.tiles import Kernel, Tile

# From how many tokens on the autotuner chooses for many.
MANY_ROWS = 512
# Edge of the squares of r that are looked at for zeros, and in the interpreter.
ZERO_EDGE, TRIAL_EDGE = 64, 16
ROWS = "plm.kernels.relu2_mlp_triton:rows_product"
_WEIGHT = "plm.kernels.relu2_mlp_triton:weight_product"
# Arguments that a product may do without.
POINTERS = {ROWS: ("r", "flags", "order", "counts"), _WEIGHT: ("order", "counts")}
_SIZES = {"1_8b": (2048, 8192), "135m": (640, 2560), "micro": (384, 1536)}
_OFF = {"TURNED": False, "SQUARE": False, "RELU": False, "SLOPE": False, "SKIP": False}
# What each kernel is, beside the sizes and LARGE.
CONSTANTS: dict[str, dict[str, Any]] = {
    "relu2_mlp_up": {**_OFF, "RELU": True},
    "relu2_mlp_down": {**_OFF, "SQUARE": True},
    "relu2_mlp_slope": {**_OFF, "TURNED": True, "SLOPE": True},
    "relu2_mlp_weight": {"SKIP": False},
    "relu2_mlp_up_flags": {**_OFF, "RELU": True, "SKIP": True},
    "relu2_mlp_down_skip": {**_OFF, "SQUARE": True, "SKIP": True},
    "relu2_mlp_slope_skip": {**_OFF, "TURNED": True, "SLOPE": True, "SKIP": True},
    "relu2_mlp_weight_skip": {"SKIP": True},
}


def _tile(m: int, n: int, k: int, warps: int, stages: int, group: int = 8) -> Tile:
    blocks = {"BLOCK_M": m, "BLOCK_N": n, "BLOCK_K": k, "BLOCK_GROUP": group}
    return Tile(blocks, warps, stages)


def _kernel(
    name: str, pointers: dict[str, str], shapes: dict[str, tuple], trial: tuple[int, int, int]
) -> Kernel:
    """A product of bf16.

    Args:
        name: a key of CONSTANTS.
        pointers: those that it has of what it may do without.
        shapes: by architecture what `_tile` takes.
        trial: blocks for the interpreter.
    """
    weight = "weight" in name
    source, tensors = (_WEIGHT, ("r", "grad", "out")) if weight else (ROWS, ("a", "b", "out"))
    absent = {pointer: None for pointer in POINTERS[source] if pointer not in pointers}
    given = {**CONSTANTS[name], **absent, "LARGE": True}
    if not weight:
        given["EDGE"] = ZERO_EDGE
    # What D and F are called: `rows_product` sums over K.
    turned = "up" in name or "slope" in name
    names = ("D", "F") if weight else ("K", "N") if turned else ("N", "K")
    # One size is enough for the experiment.
    sizes = {"1_8b": _SIZES["1_8b"]} if CONSTANTS[name]["SKIP"] else _SIZES
    return Kernel(
        name=name,
        source=source,
        arguments={**dict.fromkeys(tensors, "*bf16"), **pointers, "M": "i32"},
        cases={
            case: {**given, **dict(zip(names, size, strict=True))} for case, size in sizes.items()
        },
        tiles={arch: tuple(_tile(*shape) for shape in found) for arch, found in shapes.items()},
        trial=_tile(*trial, 4, 2, 2),
        key=(*names, "LARGE"),
        odd=("M",),
    )


# (BLOCK_M, BLOCK_N, BLOCK_K, warps, stages), best guess first. Wide tiles are bound by the matrix
# unit, the last ones are for few tokens or small weights.
_AMPERE = (
    (128, 256, 32, 8, 3), (256, 128, 32, 8, 3), (128, 128, 64, 8, 3), (64, 64, 64, 4, 4),
    (32, 128, 64, 4, 4),
)  # fmt: skip
_ADA = ((128, 256, 32, 8, 3), (128, 128, 32, 8, 4), (64, 128, 32, 4, 4), (64, 64, 32, 4, 4))
_HOPPER = (
    (128, 256, 64, 8, 4), (256, 128, 64, 8, 4), (128, 128, 64, 8, 4), (64, 256, 64, 4, 4),
    (64, 64, 128, 4, 4),
)  # fmt: skip
_BLACKWELL = (
    (128, 256, 64, 8, 4), (256, 128, 64, 8, 4), (128, 128, 64, 8, 4), (128, 64, 64, 4, 4),
    (64, 128, 64, 4, 4),
)  # fmt: skip
_CDNA = (
    (256, 128, 32, 8, 2), (128, 256, 32, 8, 2), (128, 128, 64, 8, 2), (64, 128, 64, 4, 2),
    (32, 128, 64, 4, 2),
)  # fmt: skip
_TILES = {
    "sm_80": _AMPERE, "sm_89": _ADA, "sm_90": _HOPPER, "sm_100": _BLACKWELL, "sm_120": _ADA,
    "gfx942": _CDNA,
}  # fmt: skip
# The load of r beside the accumulator spills in the wide ones there.
_SLOPE_TILES = {**_TILES, "sm_100": _BLACKWELL[2:]}
# A tile of 64 by 128 spills there, where the rows are a multiple of 16.
_WEIGHT_TILES = {**_TILES, "sm_120": (*_ADA[:2], _ADA[3])}
_E = ZERO_EDGE
# Only those that whole squares fit into.
_SQUARE_TILES = {
    "sm_80": _AMPERE[:2], "sm_89": _ADA[:1], "sm_90": _HOPPER[:2], "sm_100": _BLACKWELL[2:4],
    "sm_120": _ADA[:1], "gfx942": _CDNA[:2],
}  # fmt: skip
_LISTED_TILES = {
    "sm_80": ((_E, 128, _E, 4, 3), (_E, _E, _E, 4, 4)),
    "sm_89": ((_E, 128, _E, 4, 2), (_E, _E, _E, 4, 3)),
    "sm_90": ((_E, 256, _E, 4, 4), (_E, 128, _E, 4, 4)),
    "sm_100": ((_E, 256, _E, 8, 4), (_E, 128, _E, 4, 4)),
    "sm_120": ((_E, 128, _E, 4, 2), (_E, _E, _E, 4, 3)),
    "gfx942": ((_E, 128, _E, 4, 2), (_E, _E, _E, 4, 2)),
}
_TRIAL, _EDGE = (32, 32, 32), TRIAL_EDGE
_LISTED = {"order": "*i32", "counts": "*i32"}
_FLAGGED = {"r": "*bf16", "flags": "*i8"}

UP = _kernel("relu2_mlp_up", {}, _TILES, _TRIAL)
DOWN = _kernel("relu2_mlp_down", {}, _TILES, _TRIAL)
SLOPE = _kernel("relu2_mlp_slope", {"r": "*bf16"}, _SLOPE_TILES, _TRIAL)
WEIGHT = _kernel("relu2_mlp_weight", {}, _WEIGHT_TILES, _TRIAL)
UP_FLAGS = _kernel("relu2_mlp_up_flags", {"flags": "*i8"}, _SQUARE_TILES, _TRIAL)
DOWN_SKIP = _kernel("relu2_mlp_down_skip", _LISTED, _LISTED_TILES, (_EDGE, 32, _EDGE))
SLOPE_SKIP = _kernel("relu2_mlp_slope_skip", _FLAGGED, _SQUARE_TILES, _TRIAL)
WEIGHT_SKIP = _kernel("relu2_mlp_weight_skip", _LISTED, _LISTED_TILES, (_EDGE, 32, _EDGE))
KERNELS = (UP, DOWN, SLOPE, WEIGHT, UP_FLAGS, DOWN_SKIP, SLOPE_SKIP, WEIGHT_SKIP)
