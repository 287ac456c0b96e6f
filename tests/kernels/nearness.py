"""How near a kernel must come to float64."""

import torch
from torch import Tensor


def assert_near(got: Tensor, exact: Tensor, *, roundings: int = 1) -> None:
    """Fail unless got is exact but for fp32's error and rounding once to its own dtype.

    Args:
        got: fp32, or a narrower type that was rounded to once.
        exact: float64.
        roundings: how many units of half the last place got may be off; in fp32 they do not count.
    """
    assert got.shape == exact.shape
    if not got.numel():
        return
    half = {torch.float32: 0.0, torch.float16: 2**-11, torch.bfloat16: 2**-8}[got.dtype]
    error = (got.double() - exact).abs()
    # Sums cancel, so that fp32's error is one of the largest value, not of each.
    allowed = roundings * half * exact.abs() + 1e-5 * exact.abs().max()
    assert (error <= allowed).all(), f"off by {(error - allowed).max():.3g} more than allowed"
