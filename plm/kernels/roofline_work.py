"""Kernels as the roofline sees them, the GPUs it knows, and how long a kernel takes on one.

seconds = max(FLOPs / (peak · share · filled), bytes / (bandwidth · share)) + launches · LAUNCH_S
where `filled` is the part of the last wave of tiles that has work. Bytes are those between the GPU
and its memory, each tensor once a kernel: what a tile reads again is taken to be in the cache.
"""

import math
from collections.abc import Iterable
from dataclasses import dataclass

LAUNCH_S = 4e-6
# Of cuBLAS for few rows; with it the chunked loss of Liger-Kernel on an A100 comes out right
# (roofline_points), without the waves it is a quarter too fast.
GEMM_TILE = 128


@dataclass(frozen=True)
class Gpu:
    """A GPU by its data sheet, and the shares of it that kernels reach.

    Attributes:
        name: as tables call it.
        flops: bf16 with fp32 sums, dense, a second.
        bandwidth: of its memory, bytes a second.
        units: streaming multiprocessors, or compute units.
        gemm: share of flops that a library's matrix product reaches.
        attention: share that attention in the style of FlashAttention-2 reaches.
        memory: share of bandwidth that an elementwise or row kernel reaches.
        source: of the data sheet's figures.
        shares: where the shares are from.
    """

    name: str
    flops: float
    bandwidth: float
    units: int
    gemm: float
    attention: float
    memory: float
    source: str
    shares: str


# "best product" is the fastest bf16 product found by a search over shapes, from the table "Maximum
# Achievable Matmul FLOPS" of github.com/stas00/ml-engineering (compute/accelerator/README.md).
# 0.94 of it is what the A100's points leave; the same 0.94 is taken where there are no points.
GPUS = {
    gpu.name: gpu
    for gpu in (
        Gpu(
            "A100-80G",
            312e12,
            2.039e12,
            108,
            0.82,
            0.55,
            0.83,
            "NVIDIA A100 80GB SXM data sheet: 312 TFLOPS bf16, 2,039 GB/s; 108 SMs",
            "gemm and memory fitted to roofline_points (best product 0.869); attention assumed",
        ),
        Gpu(
            "H100",
            989.4e12,
            3.35e12,
            132,
            0.75,
            0.45,
            0.88,
            "NVIDIA H100 SXM data sheet: 1,979 TFLOPS bf16 with sparsity, 3.35 TB/s; 132 SMs",
            "memory and attention fitted to roofline_points; gemm 0.94 of the best product's 0.803",
        ),
        Gpu(
            "B200",
            2250e12,
            8.0e12,
            148,
            0.68,
            0.40,
            0.80,
            "NVIDIA HGX B200 data sheet, a GPU: 4.5 PFLOPS bf16 with sparsity, 8 TB/s; 148 SMs",
            "gemm and memory fitted to roofline_points (best product 0.776); attention assumed",
        ),
        Gpu(
            "RTX 4090",
            165.2e12,
            1.008e12,
            128,
            0.80,
            0.70,
            0.88,
            "NVIDIA Ada white paper 1.1, appendix: 165.2 TFLOPS bf16 with fp32 sums, 1,008 GB/s",
            "all assumed: no point of this GPU is used",
        ),
        Gpu(
            "MI300X",
            1307.4e12,
            5.3e12,
            304,
            0.48,
            0.30,
            0.75,
            "AMD Instinct MI300X data sheet: 1,307.4 TFLOPS bf16, 5.3 TB/s; 304 compute units",
            "gemm 0.94 of the best product's 0.514; the others assumed",
        ),
    )
}


@dataclass(frozen=True)
class Work:
    """One kernel, or `launches` equal ones.

    Attributes:
        name: for the reader.
        read, written: bytes from and to the GPU's memory, of all launches.
        flops: on the matrix unit, of all launches.
        tiles: output tiles of one launch, for the waves; 0: there are more than enough.
        launches: how often it is started.
        attention: whether its FLOPs are those of attention.
        own: whether it is a Triton kernel on the matrix unit, which may reach less than a library.
    """

    name: str
    read: float = 0.0
    written: float = 0.0
    flops: float = 0.0
    tiles: int = 0
    launches: int = 1
    attention: bool = False
    own: bool = False

    @property
    def bytes(self) -> float:
        """Read and written."""
        return self.read + self.written


def passes(name: str, elements: float, read: float, written: float, launches: int = 1) -> Work:
    """An elementwise or row kernel; read and written are bytes an element."""
    return Work(name, elements * read, elements * written, launches=launches)


def gemm(
    name: str,
    rows: int,
    columns: int,
    inner: int,
    *,
    element: int = 2,
    written: int = 2,
    again: int = 0,
    launches: int = 1,
    own: bool = False,
) -> Work:
    """A matrix product [rows, inner] · [inner, columns], started `launches` times.

    Args:
        name: for the reader.
        rows, columns, inner: of one launch.
        element: bytes of an element of both factors.
        written: bytes written an element of the product.
        again: bytes read an element of the product: a sum that goes on, an epilogue's operand.
        launches: how often.
        own: by a Triton kernel, not by a library.
    """
    factors, product = (rows + columns) * inner, rows * columns
    tiles = math.ceil(rows / GEMM_TILE) * math.ceil(columns / GEMM_TILE)
    return Work(
        name,
        read=launches * (factors * element + product * again),
        written=launches * product * written,
        flops=launches * 2.0 * product * inner,
        tiles=tiles,
        launches=launches,
        own=own,
    )


def filled(tiles: int, units: int) -> float:
    """Share of the units' time that has work, where tiles are handed out in waves."""
    return tiles / (math.ceil(tiles / units) * units) if tiles else 1.0


def times(work: Work, gpu: Gpu, own: float = 1.0) -> tuple[float, float]:
    """Seconds that the matrix unit needs, and that the memory needs; own: as in `seconds`."""
    share = (gpu.attention if work.attention else gpu.gemm) * (own if work.own else 1.0)
    reached = gpu.flops * share * filled(work.tiles, gpu.units)
    return work.flops / reached, work.bytes / (gpu.bandwidth * gpu.memory)


def seconds(works: Iterable[Work], gpu: Gpu, own: float = 1.0) -> float:
    """Predicted seconds of kernels that run one after the other.

    Args:
        works: the kernels.
        gpu: where.
        own: what Triton's kernels reach of a library's rate on the matrix unit.
    """
    return sum(max(times(work, gpu, own)) + work.launches * LAUNCH_S for work in works)


def total_bytes(works: Iterable[Work]) -> float:
    """Bytes from and to the GPU's memory."""
    return sum(work.bytes for work in works)
