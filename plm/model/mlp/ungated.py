"""Feed-forward of two matrices: up, activation, down. PLM's has a squared ReLU.

Paper: So et al., Primer (arXiv:2109.08668), for the squared ReLU
Cost: 4·D·F FLOPs a token, forward.
"""

from collections.abc import Callable

from torch import Tensor, nn

from plm.model.common import Tap, flops
from plm.model.context import Context


class Ungated(nn.Module):
    """Feed-forward without a gate.

    Args:
        hidden_size: D.
        intermediate_size: F.
        activation: `() -> module`, elementwise or over F.
        linear: `(in, out, role) -> module`.
    """

    def __init__(
        self,
        hidden_size: int,
        *,
        intermediate_size: int,
        activation: Callable[[], nn.Module],
        linear: Callable[..., nn.Module],
    ) -> None:
        super().__init__()
        self.up_proj = linear(hidden_size, intermediate_size, "up")
        self.pre_activation = Tap()
        self.activation = activation()
        self.down_proj = linear(intermediate_size, hidden_size, "down")

    def forward(self, hidden: Tensor, context: Context) -> Tensor:
        """[B, T, D] -> [B, T, D]."""
        wide = self.pre_activation(self.up_proj(hidden))
        return self.down_proj(self.activation(wide, context))

    def flops_per_token(self, seq_len: int) -> float:
        """Forward FLOPs a token."""
        parts = (self.up_proj, self.activation, self.down_proj)
        return sum(flops(part, seq_len) for part in parts)
