"""What the kernels over rows share: a row's layout, the number of programs, what they refuse."""

import torch
from torch import Tensor

from plm.kernels import tiles
from plm.kernels.tiles import interpreting

DTYPES = (torch.bfloat16, torch.float16, torch.float32)
# Few, and no power of two, so that little data makes programs with unequal shares.
_INTERPRETED = 3


def padded(size: int) -> int:
    """The power of two that holds `size` columns, at least 16."""
    return max(16, 1 << (size - 1).bit_length())


def processors(device: torch.device) -> int:
    """Multiprocessors of a GPU; a small constant in the interpreter."""
    return _INTERPRETED if interpreting() else tiles.processors(device.index or 0)


def dtype_problem(**tensors: Tensor) -> str | None:
    """Which of the named tensors a kernel cannot calculate with, or None."""
    for name, tensor in tensors.items():
        if tensor.dtype not in DTYPES:
            return f"{name} is {tensor.dtype}; the Triton kernel takes bfloat16, float16, float32"
    return None


def size_problem(name: str, size: int, most: int) -> str | None:
    """Why a row of this length is not taken, or None."""
    if 0 < size <= most:
        return None
    return f"{name} has rows of {size}; the Triton kernel takes 1 to {most}"
