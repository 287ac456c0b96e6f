"""Passes over a chunk of logits in plain torch: the form for CPUs, and where Triton is not."""

import torch
from torch import Tensor

from plm.kernels.linear_rows import Coefficients, Stats, wide_dtype


class TorchMiddle:
    """In plain torch, on wide logits.

    Args:
        dtype: of the product.
        scale: 1 / temperature.
        entropy: its statistics are wanted.
    """

    in_place = False

    def __init__(self, dtype: torch.dtype, scale: float, entropy: bool) -> None:
        wide = wide_dtype(dtype)
        narrow = 0 if dtype == wide else dtype.itemsize
        self.bytes_per_logit = wide.itemsize * (1 + entropy) + narrow
        self._scale = scale
        self._room: Tensor | None = None

    def forget(self) -> None:
        self._exponentials = self._moments = None

    def take(self, logits: Tensor, labels: Tensor, out: Stats) -> None:
        if self._scale != 1:
            logits = logits.mul_(self._scale)
        picked = logits.gather(1, labels[:, None])
        if out.top1 is None:
            highest = logits.amax(-1, keepdim=True)
        else:
            highest, top1 = logits.max(-1, keepdim=True)
            out.top1.copy_(top1[:, 0])
        gaps = logits.sub_(highest)
        self._exponentials = gaps.exp_() if out.entropy is None else self._exp(gaps)
        self._total = self._exponentials.sum(-1, keepdim=True)
        self._log = self._total.log()
        out.log_sum.copy_((highest + self._log)[:, 0])
        torch.sub(picked[:, 0], out.log_sum, out=out.logps)
        if out.entropy is not None:
            self._moments = gaps.mul_(self._exponentials)
            moment = self._moments.sum(-1, keepdim=True)
            out.entropy.copy_((self._log - moment / self._total)[:, 0])

    def resume(self, logits: Tensor, log_sum: Tensor, entropy: bool) -> None:
        gaps = logits.mul_(self._scale).sub_(log_sum[:, None])
        self._exponentials = self._exp(gaps) if entropy else gaps.exp_()
        if entropy:
            self._moments = gaps.mul_(self._exponentials)
        self._total = torch.ones_like(log_sum)[:, None]
        self._log = torch.zeros_like(self._total)

    def _exp(self, gaps: Tensor) -> Tensor:
        # One room for all chunks: the first is the largest.
        if self._room is None:
            self._room = torch.empty_like(gaps)
        return torch.exp(gaps, out=self._room[: len(gaps)])

    def gradient(self, labels: Tensor, coefficients: Coefficients) -> Tensor:
        alpha, gamma, beta = coefficients
        alpha = alpha[:, None]
        if beta is not None:
            beta = beta[:, None]
            alpha = alpha - beta * self._log
        slope = self._exponentials.mul_(alpha / self._total)
        if beta is not None:
            slope.addcmul_(self._moments, beta / self._total)
        return slope.scatter_add_(1, labels[:, None], gamma[:, None])
