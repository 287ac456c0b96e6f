"""Exact means over a softmax: every token, weighted with its probability."""

from collections.abc import Callable

import torch
from torch import Tensor

SIZE = 50


class Softmax:
    """A policy with its logits as leaf, its reference, and an older policy, over SIZE tokens."""

    def __init__(self) -> None:
        self.logits = torch.randn(SIZE, dtype=torch.float64, requires_grad=True)
        self.logps = self.logits.log_softmax(0)
        self.ref_logps = torch.randn(SIZE, dtype=torch.float64).log_softmax(0)
        self.older = torch.randn(SIZE, dtype=torch.float64).log_softmax(0)

    def mean(self, estimate: Callable[..., Tensor], drawn: Tensor | None = None) -> Tensor:
        """Of an estimate over tokens drawn from these log-probabilities, or from the policy's."""
        old = self.logps.detach() if drawn is None else drawn
        return (old.exp() * estimate(self.logps, self.ref_logps, old)).sum()

    def gradient(self, value: Tensor) -> Tensor:
        return torch.autograd.grad(value, self.logits, retain_graph=True)[0]

    @property
    def towards(self) -> Tensor:
        """KL(policy ‖ reference)."""
        return (self.logps.exp() * (self.logps - self.ref_logps)).sum()

    @property
    def back(self) -> Tensor:
        """KL(reference ‖ policy)."""
        return (self.ref_logps.exp() * (self.ref_logps - self.logps)).sum()
