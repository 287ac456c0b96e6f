"""What is decided about the kernels of `mla_attention`: arguments, shapes, tiles.

BLOCK_K cuts the columns of a head's key and value into pieces, which is what keeps the gradients'
tiles on sm_80, sm_89 and sm_120 free of spills; sm_100 and gfx942 do as well or better without.
"""

from plm.kernels.tiles import Kernel, Tile

_AT = "plm.kernels.mla_attention_"
_HEADS = {
    "1_8b": {"H": 16, "HK": 16, "N": 128, "R": 64, "U": 128},
    "135m": {"H": 5, "HK": 5, "N": 128, "R": 64, "U": 128},
    "micro": {"H": 6, "HK": 6, "N": 64, "R": 32, "U": 64},
}
_CAUSAL = {case: {**heads, "CAUSAL": True} for case, heads in _HEADS.items()}
_KEY = ("H", "HK", "N", "R", "U", "CAUSAL")
_ARCHS = ("sm_80", "sm_89", "sm_90", "sm_100", "sm_120", "gfx942")

_TYPES = {
    **dict.fromkeys(("q", "q_rope", "kv", "k_rope", "out", "grad", "grad_q", "grad_kv"), "*bf16"),
    **dict.fromkeys(("cos", "sin", "logsumexp", "delta", "parts"), "*fp32"),
    **dict.fromkeys(("starts", "ends"), "*i32"),
    **dict.fromkeys(("T", "B"), "i32"),
    **dict.fromkeys(("scale", "power"), "fp32"),
}


def _arguments(names: str) -> dict[str, str]:
    return {name: _TYPES[name] for name in names.split()}


def _queries(*tiles: tuple[int, int, int, int, int]) -> tuple[Tile, ...]:
    """Tiles from (queries, keys, columns, warps, stages)."""
    return tuple(
        Tile({"BLOCK_M": m, "BLOCK_N": n, "BLOCK_K": k}, warps, stages)
        for m, n, k, warps, stages in tiles
    )


def _keys(*tiles: tuple[int, int, int, int, int]) -> tuple[Tile, ...]:
    """Tiles from (keys, queries, columns, warps, stages)."""
    return tuple(
        Tile({"BLOCK_N": n, "BLOCK_M": m, "BLOCK_K": k}, warps, stages)
        for n, m, k, warps, stages in tiles
    )


def _rotation(name: str, dtype: str, sign: int) -> Kernel:
    return Kernel(
        name=name,
        source=_AT + "rows:rotate_kernel",
        arguments={
            "x": dtype,
            "cos": "*fp32",
            "sin": "*fp32",
            "out": "*bf16",
            "rows": "i32",
            "stride": "i32",
            "parts": "i32",
        },
        cases={
            "1_8b": {"R": 64, "SIGN": sign},
            "135m": {"R": 64, "SIGN": sign},
            "micro": {"R": 32, "SIGN": sign},
        },
        tiles={
            arch: (Tile({"BLOCK_ROWS": 64}, 4), Tile({"BLOCK_ROWS": 128}, 8)) for arch in _ARCHS
        },
        trial=Tile({"BLOCK_ROWS": 16}),
        key=("R",),
        matrix=False,
        odd=("rows", "parts"),
    )


ROTATE = _rotation("mla_attention_rotate", "*bf16", 1)
ROTATE_BACK = _rotation("mla_attention_rotate_back", "*fp32", -1)

FORWARD = Kernel(
    name="mla_attention_forward",
    source=_AT + "forward:forward_kernel",
    arguments=_arguments("q kv k_rope cos sin starts ends out logsumexp T scale"),
    cases=_CAUSAL,
    tiles={
        "sm_80": _queries((128, 64, 64, 8, 2), (128, 32, 64, 8, 3), (64, 32, 64, 4, 2)),
        "sm_89": _queries((128, 64, 64, 8, 2), (128, 32, 64, 8, 2), (64, 32, 64, 4, 2)),
        "sm_90": _queries(
            (128, 128, 64, 8, 2), (128, 64, 64, 8, 3), (128, 128, 128, 8, 2), (64, 64, 128, 4, 2)
        ),
        "sm_100": _queries(
            (128, 128, 128, 8, 2), (128, 64, 128, 8, 3), (128, 64, 128, 8, 2), (64, 64, 128, 4, 2)
        ),
        "sm_120": _queries((128, 64, 64, 8, 2), (128, 32, 64, 8, 2), (64, 32, 64, 4, 2)),
        "gfx942": _queries(
            (128, 32, 128, 4, 2), (64, 64, 128, 4, 2), (128, 64, 128, 4, 1), (128, 32, 128, 8, 1)
        ),
    },
    trial=Tile({"BLOCK_M": 16, "BLOCK_N": 16, "BLOCK_K": 16}),
    key=_KEY,
    odd=("T",),
)

PREPARE = Kernel(
    name="mla_attention_prepare",
    source=_AT + "rows:prepare_kernel",
    arguments=_arguments("q cos sin out grad delta q_rope T"),
    cases={case: {name: heads[name] for name in "HNRU"} for case, heads in _HEADS.items()},
    tiles={arch: (Tile({"BLOCK_M": 32}, 4), Tile({"BLOCK_M": 64}, 8)) for arch in _ARCHS},
    trial=Tile({"BLOCK_M": 16}),
    key=("H", "N", "R", "U"),
    matrix=False,
    odd=("T",),
)

QUERY_GRADIENT = Kernel(
    name="mla_attention_query_gradient",
    source=_AT + "backward:query_gradient_kernel",
    arguments=_arguments(
        "q q_rope kv k_rope cos sin starts ends grad logsumexp delta grad_q T scale power"
    ),
    cases=_CAUSAL,
    tiles={
        "sm_80": _queries((64, 32, 64, 8, 2), (128, 16, 64, 8, 2), (64, 16, 64, 4, 3)),
        "sm_89": _queries((64, 32, 64, 8, 2), (128, 16, 64, 8, 2), (64, 16, 64, 4, 3)),
        "sm_90": _queries((128, 64, 64, 8, 2), (64, 64, 64, 4, 2), (128, 64, 128, 8, 2)),
        "sm_100": _queries((128, 64, 128, 8, 2), (128, 32, 128, 8, 2)),
        "sm_120": _queries((128, 16, 64, 8, 2), (64, 16, 64, 4, 3)),
        "gfx942": _queries(
            (64, 64, 64, 4, 1), (128, 32, 64, 4, 1), (64, 32, 128, 4, 1), (128, 16, 128, 8, 1)
        ),
    },
    trial=Tile({"BLOCK_M": 16, "BLOCK_N": 16, "BLOCK_K": 16}),
    key=_KEY,
    odd=("T",),
)

KEY_GRADIENT = Kernel(
    name="mla_attention_key_gradient",
    source=_AT + "backward:key_gradient_kernel",
    arguments=_arguments(
        "q q_rope kv k_rope starts ends grad logsumexp delta grad_kv parts T B scale power"
    ),
    cases=_CAUSAL,
    tiles={
        "sm_80": _keys((64, 16, 64, 4, 3), (128, 16, 64, 8, 2), (64, 16, 64, 4, 2)),
        "sm_89": _keys((64, 16, 64, 4, 3), (64, 16, 64, 8, 3), (64, 16, 64, 4, 2)),
        "sm_90": _keys((64, 64, 64, 8, 2), (128, 32, 64, 8, 2), (64, 32, 64, 8, 3)),
        "sm_100": _keys((64, 64, 128, 8, 2), (128, 32, 128, 8, 2), (64, 32, 128, 8, 2)),
        "sm_120": _keys((64, 16, 64, 4, 3), (128, 16, 64, 8, 2), (64, 16, 64, 4, 2)),
        "gfx942": _keys(
            (64, 32, 128, 4, 2), (64, 64, 64, 4, 1), (128, 16, 128, 4, 1), (64, 32, 128, 4, 1)
        ),
    },
    trial=Tile({"BLOCK_N": 16, "BLOCK_M": 16, "BLOCK_K": 16}),
    key=_KEY,
    odd=("T", "B"),
)

KERNELS = (ROTATE, ROTATE_BACK, FORWARD, PREPARE, QUERY_GRADIENT, KEY_GRADIENT)
