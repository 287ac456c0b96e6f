"""Passes over a chunk of logits: statistics of its rows, and the logits turned into a gradient.

A row is longer than a program can hold: it is walked in blocks, with the largest value so far and
sums that are rescaled when it grows. exp is exp2 with log2(e) folded in.
"""

import torch
import triton
import triton.language as tl
from torch import Tensor

from plm.kernels.linear_rows import Coefficients, Stats
from plm.kernels.linear_rows_configs import GRADIENT, STATS
from plm.kernels.tiles import launch

_LOG2E = tl.constexpr(1.4426950408889634)


@triton.jit
def row_stats(
    logits,
    labels,
    log_sum,
    logps,
    entropy,
    top1,
    scale,
    V: tl.constexpr,
    ENTROPY: tl.constexpr,
    TOP1: tl.constexpr,
    BLOCK_V: tl.constexpr,
):
    """One program a row of logits [R, V]; the sums are kept by lane and added up once, at the end.

    entropy and top1 are touched only where ENTROPY and TOP1 say so.
    """
    row = tl.program_id(0)
    # A chunk may pass 2^31 logits.
    base = logits + row.to(tl.int64) * V
    lanes = tl.arange(0, BLOCK_V)
    # Not -inf, whose difference to itself is no number.
    highest = -3.0e38
    total = tl.zeros([BLOCK_V], tl.float32)
    moment = tl.zeros([BLOCK_V], tl.float32)
    best = tl.full([BLOCK_V], float("-inf"), tl.float32)
    places = lanes
    for start in range(0, V, BLOCK_V):
        columns = start + lanes
        x = tl.load(base + columns, mask=columns < V, other=float("-inf")).to(tl.float32)
        if TOP1:
            # Strictly: of equal ones the first stays.
            better = x > best
            best = tl.where(better, x, best)
            places = tl.where(better, columns, places)
        risen = tl.maximum(highest, tl.max(x, 0))
        shrink = tl.exp2((highest - risen) * (scale * _LOG2E))
        gap = x - risen
        e = tl.exp2(gap * (scale * _LOG2E))
        if ENTROPY:
            # The gap of what has no weight may be -inf.
            moment = (moment + (highest - risen) * total) * shrink + tl.where(e > 0, e * gap, 0.0)
        total = total * shrink + e
        highest = risen
    mass = tl.sum(total, 0)
    log = tl.log(mass)
    label = tl.load(labels + row)
    picked = tl.load(base + label).to(tl.float32)
    tl.store(log_sum + row, highest * scale + log)
    tl.store(logps + row, (picked - highest) * scale - log)
    if ENTROPY:
        tl.store(entropy + row, log - scale * (tl.sum(moment, 0) / mass))
    if TOP1:
        first = tl.min(tl.where(best == tl.max(best, 0), places, V), 0)
        tl.store(top1 + row, first.to(tl.int64))


@triton.jit
def row_gradient(
    logits,
    labels,
    log_sum,
    alpha,
    beta,
    gamma,
    scale,
    V: tl.constexpr,
    ENTROPY: tl.constexpr,
    BLOCK_V: tl.constexpr,
):
    """One program a block of a row of logits [R, V], which becomes its gradient in place.

    beta is touched only where ENTROPY says so.
    """
    program = tl.program_id(0)
    blocks: tl.constexpr = (V + BLOCK_V - 1) // BLOCK_V
    row = program // blocks
    columns = program % blocks * BLOCK_V + tl.arange(0, BLOCK_V)
    place = logits + row.to(tl.int64) * V + columns
    x = tl.load(place, mask=columns < V, other=float("-inf")).to(tl.float32)
    logp = x * scale - tl.load(log_sum + row)
    factor = tl.load(alpha + row)
    if ENTROPY:
        slope = tl.exp2(logp * _LOG2E) * (factor + tl.load(beta + row) * logp)
    else:
        slope = tl.exp2(logp * _LOG2E) * factor
    slope += tl.where(columns == tl.load(labels + row), tl.load(gamma + row), 0.0)
    tl.store(place, slope.to(logits.dtype.element_ty), mask=columns < V)


class TritonMiddle:
    """As `linear_rows.TorchMiddle`, in place of the product's own logits.

    Args:
        dtype: of the product: bf16, fp16 or fp32.
        scale: 1 / temperature.
    """

    in_place = True

    def __init__(self, dtype: torch.dtype, scale: float) -> None:
        self.bytes_per_logit = dtype.itemsize
        self._scale = scale

    def forget(self) -> None:
        """The logits themselves are overwritten, and the next chunk has their place."""

    def take(self, logits: Tensor, labels: Tensor, out: Stats) -> None:
        rows, vocab_size = logits.shape
        launch(
            STATS,
            lambda constants: (rows,),
            {
                "logits": logits,
                "labels": labels,
                "log_sum": out.log_sum,
                "logps": out.logps,
                "entropy": out.log_sum if out.entropy is None else out.entropy,
                "top1": labels if out.top1 is None else out.top1,
                "scale": self._scale,
            },
            {"V": vocab_size, "ENTROPY": out.entropy is not None, "TOP1": out.top1 is not None},
        )
        self._logits, self._log_sum = logits, out.log_sum

    def resume(self, logits: Tensor, log_sum: Tensor, entropy: bool) -> None:
        self._logits, self._log_sum = logits, log_sum

    def gradient(self, labels: Tensor, coefficients: Coefficients) -> Tensor:
        alpha, gamma, beta = coefficients
        rows, vocab_size = self._logits.shape
        launch(
            GRADIENT,
            lambda constants: (rows * triton.cdiv(vocab_size, constants["BLOCK_V"]),),
            {
                "logits": self._logits,
                "labels": labels,
                "log_sum": self._log_sum,
                "alpha": alpha,
                "beta": alpha if beta is None else beta,
                "gamma": gamma,
                "scale": self._scale,
            },
            {"V": vocab_size, "ENTROPY": beta is not None},
        )
        return self._logits
