"""Gated feed-forward: down(activation(gate(x)) * up(x)); with SiLU it is SwiGLU.

Paper: Shazeer, GLU variants (arXiv:2002.05202)
Cost: 6·D·F FLOPs a token, forward.
"""

from collections.abc import Callable

import torch
from torch import Tensor, nn

from plm.model.common import Tap, flops, own
from plm.model.context import Context
from plm.model.decoding import Frame, Run, Workshop


class SwiGLU(nn.Module):
    """Feed-forward with a gate.

    Args:
        hidden_size: D.
        intermediate_size: F.
        activation: `() -> module`, on the gate.
        linear: `(in, out, role) -> module`.
    """

    exports = ("llama", "qwen2", "qwen3")

    def __init__(
        self,
        hidden_size: int,
        *,
        intermediate_size: int,
        activation: Callable[[], nn.Module],
        linear: Callable[..., nn.Module],
    ) -> None:
        super().__init__()
        self.gate_proj = linear(hidden_size, intermediate_size, "gate")
        self.up_proj = linear(hidden_size, intermediate_size, "up")
        self.pre_activation = Tap()
        self.activation = activation()
        self.down_proj = linear(intermediate_size, hidden_size, "down")

    def forward(self, hidden: Tensor, context: Context) -> Tensor:
        """[B, T, D] -> [B, T, D]."""
        gate = self.activation(self.pre_activation(self.gate_proj(hidden)), context)
        return self.down_proj(gate * self.up_proj(hidden))

    def fast(self, workshop: Workshop) -> Callable[[Frame], Run] | None:
        """What makes its fast step (plm.model.decoding)."""
        overwrite = own(self.activation, "overwrite")
        projections = self.gate_proj, self.up_proj, self.down_proj
        if overwrite is None or not workshop.plain(*projections):
            return None
        gate, up, down = (workshop.product(module.weight) for module in projections)

        def run(x: Tensor) -> Tensor:
            return down(overwrite(self.activation, gate(x)).mul_(up(x)))

        return lambda frame: run

    def write(self, workshop: Workshop) -> Callable[[Frame], Run] | None:
        """The same by compiled kernels."""
        finish = own(self.activation, "gate_finish")
        if finish is None or not workshop.plain(self.gate_proj, self.up_proj, self.down_proj):
            return None
        both = torch.cat((self.gate_proj.weight.detach(), self.up_proj.weight.detach()))
        wide = workshop.product(both, finish)
        down = workshop.product(self.down_proj.weight)
        return lambda frame: lambda x: down(wide(x))

    def flops_per_token(self, seq_len: int) -> float:
        """Forward FLOPs a token."""
        parts = (self.gate_proj, self.up_proj, self.activation, self.down_proj)
        return sum(flops(part, seq_len) for part in parts)
