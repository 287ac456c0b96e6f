"""Tiles of the passes over a chunk of logits."""

from plm.kernels.tiles import SHARED_KIB, Kernel, Tile

_SIZES = {"1_8b": 151936, "135m": 49152, "micro": 8192}


def _tiles(*shapes: tuple[int, int], amd: tuple[tuple[int, int], ...]) -> dict:
    """By architecture, from (BLOCK_V, warps); AMD's warps have twice the threads."""

    def made(shapes: tuple[tuple[int, int], ...]) -> tuple[Tile, ...]:
        return tuple(Tile({"BLOCK_V": block}, warps, 1) for block, warps in shapes)

    return {arch: made(amd if arch.startswith("gfx") else shapes) for arch in SHARED_KIB}


STATS = Kernel(
    name="linear_rows_stats",
    source="plm.kernels.linear_rows_triton:row_stats",
    arguments={
        "logits": "*bf16",
        "labels": "*i64",
        "log_sum": "*fp32",
        "logps": "*fp32",
        "entropy": "*fp32",
        "top1": "*i64",
        "scale": "fp32",
    },
    cases={
        name + suffix: {"V": size, "ENTROPY": entropy, "TOP1": top1}
        for name, size in _SIZES.items()
        for suffix, entropy, top1 in (
            ("", False, False),
            (" policy", True, False),
            (" logprob", True, True),
        )
    },
    tiles=_tiles(
        (4096, 8), (2048, 4), (8192, 8), (2048, 8), amd=((4096, 4), (8192, 8), (2048, 4), (4096, 8))
    ),
    trial=Tile({"BLOCK_V": 32}),
    key=("V", "ENTROPY", "TOP1"),
    matrix=False,
)

GRADIENT = Kernel(
    name="linear_rows_gradient",
    source="plm.kernels.linear_rows_triton:row_gradient",
    arguments={
        "logits": "*bf16",
        "labels": "*i64",
        "log_sum": "*fp32",
        "alpha": "*fp32",
        "beta": "*fp32",
        "gamma": "*fp32",
        "scale": "fp32",
    },
    cases={
        name + suffix: {"V": size, "ENTROPY": entropy}
        for name, size in _SIZES.items()
        for suffix, entropy in (("", False), (" entropy", True))
    },
    tiles=_tiles(
        (4096, 8), (2048, 4), (4096, 4), (8192, 8), (1024, 4), amd=((4096, 4), (2048, 4), (8192, 8))
    ),
    trial=Tile({"BLOCK_V": 32}),
    key=("V", "ENTROPY"),
    matrix=False,
    reset=("logits",),
)

KERNELS = (STATS, GRADIENT)
